"""The configuration of `segray demo`."""

from __future__ import annotations

from pydantic import Field

from segray.pipelines.config.schema import Config, Folder
from segray.pipelines.config.shared import Seed


class DemoConfig(Config):
    """Draw a picture book, label it, train on it and report both: every step in minutes on a CPU."""

    out: Folder = "demo"
    """Folder for all outputs."""
    n: int = Field(default=144, ge=24, le=100_000)
    """Number of scenes; a fifth of them is held out."""
    labelled: int = Field(default=8, ge=1)
    """Training scenes with ground-truth masks."""
    epochs: int = Field(default=13, ge=1)
    """Epochs of training on the other scenes."""
    seed: Seed = 0
    """The same seed gives the same demo."""
