"""The configuration of `segray serve`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from segray.pipelines.config.schema import Config, Folder, Shown, Text
from segray.pipelines.config.shared import (
    ImageRoots,
    MaskBinary,
    MaskColors,
    MaskColumn,
    Masks,
    MaskSuffix,
    MaskVoid,
    OwnWeights,
)


class ServeConfig(Config):
    """Look at a label set in the browser, correct it, and let corrections spread to similar segments."""

    out: Folder
    """The label set. Corrections are written beside its labels, which stay as they are."""
    masks: Masks | None = None
    """A folder of ground-truth masks: the page shows them, and finds images with errors; null: none."""
    compare: Annotated[Text | None, Shown("DIR")] = None
    """Another label set, or what segray predict wrote: the page finds images that differ; null: none."""
    host: Text = "127.0.0.1"
    """Address to listen on. With another one, other machines reach the page; a token protects it."""
    port: int = Field(default=8765, ge=0, le=65535)
    """Port to listen on; 0: any free one."""
    who: Text | None = Field(default=None, max_length=200)
    """Your name, stored with each correction; null: the name of the user of this process."""
    image: ImageRoots = ImageRoots()
    """Where the images of a label set may be, if the label set does not know their checksums."""
    ignore_index: MaskVoid = 255
    binary: MaskBinary = None
    colors: MaskColors = None
    mask_suffix: MaskSuffix = None
    mask_column: MaskColumn = None
    clip: OwnWeights = OwnWeights()
    """CLIP's weights, if the label set was made with a file or an address; only new names need them."""
