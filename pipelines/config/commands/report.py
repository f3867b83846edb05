"""The configuration of `segray report`."""

from __future__ import annotations

from pydantic import Field

from segray.pipelines.config.schema import Config, Folder
from segray.pipelines.config.shared import (
    ImageRoots,
    MaskBinary,
    MaskColors,
    MaskColumn,
    Masks,
    MaskSuffix,
    MaskVoid,
)


class ReportConfig(Config):
    """Make report.html, one page with images and figures, from a label set or a training run."""

    out: Folder
    """The label set or the training run; report.html is written into it."""
    masks: Masks | None = None
    """A folder of ground-truth masks to show next to the labels and to score them with; null: none."""
    image: ImageRoots = ImageRoots()
    """Where images may be whose checksums the label set, or whose sizes the training run, does not know."""
    ignore_index: MaskVoid = 255
    binary: MaskBinary = None
    colors: MaskColors = None
    mask_suffix: MaskSuffix = None
    mask_column: MaskColumn = None
    n: int = Field(default=12, ge=1, le=1000)
    """Images on the page: the n least and the n most confident (training run: validation images)."""
