"""The configuration of `segray import`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, create_model

from segray.pipelines.config.schema import Config, Folder, Shown, Text
from segray.pipelines.config.shared import LinksConfig


class ImportKeys(Config):
    """Take masks that people made with other tools into a label set, as corrections."""

    labels: Folder
    """The label set to correct; its labels are not changed, corrections lie beside them."""
    format: Literal["auto", "png", "cvat", "coco", "labelstudio"] = "auto"
    """What `from` is; auto: its content says so."""
    good: Literal["changed", "all", "none"] = "changed"
    """Images to mark as hand-made masks as a whole; changed: those that differ from the labels."""
    who: Text | None = None
    """The person who made the masks; null: the user who runs the command."""
    ignore_index: int = Field(default=255, ge=0, le=65535)
    """Mask pixels with this id are ignored. With more than 254 classes, 255 stands for 65535."""
    binary: bool | None = None
    """Masks of 0 and 255: true: 255 is class 1; false: 255 is ignored; null: stop where all masks are so."""
    colors: Text | None = None
    """Masks of colours: a table such as CVAT's labelmap.txt, or voc, cityscapes, gray; null: masks of ids."""
    mask_suffix: Text | None = None
    """What a mask's name adds to its image's, as _mask or mask_*; OLD:NEW replaces OLD; null: nothing."""
    mask_column: Text | None = None
    """Column of masks in Parquet and CSV files; null: found by its name, such as mask or label."""
    image: LinksConfig = LinksConfig()
    """Whether symlinks are followed."""

    @property
    def source(self) -> str:
        """The key `from`, which is no name in Python."""
        return str(getattr(self, "from"))


_FROM = (
    Annotated[str, Field(min_length=1), Shown("PATH")],
    Field(description="A folder of masks, CVAT's XML or zip, COCO instances, or Label Studio's JSON."),
)
if TYPE_CHECKING:
    ImportConfig = ImportKeys
else:
    ImportConfig = create_model(
        "ImportConfig", __base__=ImportKeys, __doc__=ImportKeys.__doc__, **{"from": _FROM}
    )
