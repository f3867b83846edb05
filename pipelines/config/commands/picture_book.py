"""The configuration of `segray picture-book`."""

from __future__ import annotations

from pydantic import Field

from segray.pipelines.config.schema import Config, Folder
from segray.pipelines.config.shared import Seed


class PictureBookConfig(Config):
    """Draw picture-book scenes with exact masks, to try segray on."""

    out: Folder
    """Folder of the scenes."""
    n: int = Field(default=200, ge=1, le=1_000_000)
    """Number of scenes."""
    seed: Seed = 0
    """The same seed draws the same scenes."""
    size: int = Field(default=256, ge=32, le=2048)
    """Side of a scene in pixels."""
    val: float = Field(default=0.2, ge=0, lt=1)
    """Fraction of the scenes held out for validation."""
