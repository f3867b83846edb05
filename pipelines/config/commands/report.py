"""The configuration of `segray report`."""

from __future__ import annotations

from pydantic import Field

from segray.pipelines.config.schema import Config, Folder, Text
from segray.pipelines.config.shared import ImageRoots, Masks


class ReportConfig(Config):
    """Make report.html, one page with images and figures, from a label set or a training run."""

    out: Folder
    """The label set or the training run; report.html is written into it."""
    masks: Masks | None = None
    """A folder of ground-truth masks to show next to the labels and to score them with; null: none."""
    image: ImageRoots = ImageRoots()
    """Where images may be whose checksums the label set, or whose sizes the training run, does not know."""
    binary: bool | None = None
    """Masks of 0 and 255: true: 255 is class 1; false: 255 is ignored; null: stop where all masks are so."""
    colors: Text | None = None
    """Masks of colours: a table such as CVAT's labelmap.txt, or voc, cityscapes, gray; null: masks of ids."""
    mask_suffix: Text | None = None
    """What a mask's name adds to its image's, as _mask or mask_*; OLD:NEW replaces OLD; null: nothing."""
    n: int = Field(default=12, ge=1, le=1000)
    """Images on the page: the n least and the n most confident (training run: validation images)."""
