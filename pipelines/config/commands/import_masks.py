"""The configuration of `segray import`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, create_model

from segray.pipelines.config.schema import Config, Folder, Shown, Text
from segray.pipelines.config.shared import (
    LinksConfig,
    MaskBinary,
    MaskColors,
    MaskColumn,
    MaskSuffix,
    MaskVoid,
)


class ImportKeys(Config):
    """Take masks that people made with other tools into a label set, as corrections."""

    labels: Folder
    """The label set to correct; its labels are not changed, corrections lie beside them."""
    format: Literal["auto", "png", "cvat", "coco", "labelstudio", "yolo"] = "auto"
    """What `from` is; auto: its content says so."""
    good: Literal["changed", "all", "none"] = "changed"
    """Images to mark as hand-made masks as a whole; changed: those that differ from the labels."""
    who: Text | None = None
    """The person who made the masks; null: the user who runs the command."""
    ignore_index: MaskVoid = 255
    binary: MaskBinary = None
    colors: MaskColors = None
    mask_suffix: MaskSuffix = None
    mask_column: MaskColumn = None
    image: LinksConfig = LinksConfig()
    """Whether symlinks are followed."""

    @property
    def source(self) -> str:
        """The key `from`, which is no name in Python."""
        return str(getattr(self, "from"))


_FROM = (
    Annotated[str, Field(min_length=1), Shown("PATH")],
    Field(
        description="A folder of masks or of YOLO's labels, CVAT's XML or zip, COCO, or Label Studio's JSON."
    ),
)
if TYPE_CHECKING:
    ImportConfig = ImportKeys
else:
    ImportConfig = create_model(
        "ImportConfig", __base__=ImportKeys, __doc__=ImportKeys.__doc__, **{"from": _FROM}
    )
