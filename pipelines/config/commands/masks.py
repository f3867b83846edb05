"""The configuration of `segray masks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, create_model

from segray.pipelines.config.schema import Config, Folder, Shown, Text
from segray.pipelines.config.shared import MaskBinary, MaskColors, MaskColumn, MaskSuffix

_In = Annotated[Text, Shown("FOLDER")]
if TYPE_CHECKING:
    _Source = Config
else:
    # `in` is a word of Python's grammar, and cannot be written as a field.
    _Source = create_model(
        "_Source",
        __base__=Config,
        **{
            "in": (
                _In,
                Field(description="The data set: a folder, archives or a table, as data.root."),
            )
        },
    )


class MasksConfig(_Source):
    """Convert masks of any kind to PNG files of class ids beside their images, and show them on a page."""

    out: Folder
    """An empty folder: images/, masks/, class_names.txt and masks.html are written into it."""
    kind: Literal["auto", "folder", "voc", "coco", "labelme", "cvat", "yolo"] = "auto"
    """Layout of `in`, as `data.kind` of train; auto: by the files that are there."""
    classes: Text | tuple[Text, ...] | None = None
    """Class names, as in train; null: from class_names.txt, the table of colours or the annotations."""
    images: Text | None = None
    """Folder of the images below `in`; null: images, or where known tools put them."""
    masks: Text | None = None
    """Folder of the masks below `in`; null: masks."""
    annotations: Text | None = None
    """Annotation file of COCO or CVAT, or YAML of YOLO; null: the name that a known tool gives it."""
    val_annotations: Text | None = None
    """COCO's JSON file of the validation images, with `annotations`; null: none."""
    val_images: Text | None = None
    """Folder of the validation images of COCO; null: where known tools put them."""
    colors: MaskColors = None
    mask_suffix: MaskSuffix = None
    mask_column: MaskColumn = None
    binary: MaskBinary = None
    ignore_index: int = Field(default=255, ge=0, le=65535)
    """Class id of the mask pixels to ignore; written as 255, or 65535 with more than 254 classes."""
    n: int = Field(default=12, ge=1, le=1000)
    """Images on the page, evenly spaced."""

    @property
    def source(self) -> str:
        """The value of `in`."""
        return str(getattr(self, "in"))
