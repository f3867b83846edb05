"""The configuration of `segray export`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from segray.pipelines.config.schema import Config, Folder, RunOnly, Shown, Text
from segray.pipelines.config.shared import Roots, Seed


def _names(value: object) -> object:
    """Names as they were written: the loader reads the entries of a mapping as lists with commas."""
    if not isinstance(value, dict):
        return value
    return {k: ",".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in value.items()}


class ExportImageConfig(Config):
    """Where the images may be."""

    roots: Roots = ()
    """Folders or buckets of the images, needed where the label set has no checksum of an image."""


class ExportConfig(Config):
    """Write a label set as the files of another tool, which are read back equal pixel for pixel."""

    labels: Annotated[Folder, RunOnly]
    """The label set to read; it is not changed."""
    out: Annotated[Folder, RunOnly]
    """A new folder. Running the same command again resumes an export that was stopped."""
    format: Literal[
        "png",
        "voc",
        "cityscapes",
        "coco",
        "coco-panoptic",
        "yolo-seg",
        "huggingface",
        "webdataset",
        "fiftyone",
        "cvat",
        "labelstudio",
    ] = "png"
    """Layout of the files; png is mmsegmentation's: images/ and annotations/ with train/ and val/."""
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    """Pixels with a lower confidence are ignored; it is 0 where no segment has a class."""
    classes: Annotated[dict[Text, Text | None], BeforeValidator(_names), Shown("NAME")] = Field(default={})
    """New names: classes.car=vehicle; equal names are merged, background: no class, null: ignored pixels."""
    val: Text | None = None
    """Validation images: a share such as 0.1 or 1/10, or a file with one image_id per line; null: none."""
    seed: Seed = 0
    """Seed of the choice of validation images."""
    images: Literal["copy", "link", "none"] = "copy"
    """Image files: copies, symlinks to where the label set's manifest says they are, or none."""
    instances: Literal["connected", "segments"] = "connected"
    """Objects of coco, coco-panoptic and yolo-seg: connected pixels of a class, or SAM's visible segments."""
    image: ExportImageConfig = ExportImageConfig()
    """Where the images may be."""
