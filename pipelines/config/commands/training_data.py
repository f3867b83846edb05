"""The data that `segray train` learns from, as a configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from segray.pipelines.config.schema import Config, Folder, Text


class DataConfig(Config):
    """What a training run learns from, and what it is measured on."""

    kind: Literal["folder", "voc", "coco", "picture_book"] = "folder"
    """folder, picture_book: images/ and masks/; voc: PASCAL VOC's folders; coco: instances_*.json."""
    root: Folder
    """The data set's folder."""
    classes: Text | tuple[Text, ...] | None = None
    """As in annotate; null: the data set's own (class_names.txt, line by line from id 0; the JSON file)."""
    ignore_index: int = Field(default=255, ge=0, le=255)
    """Pixels that have this id in the masks count for nothing."""
    labels: Folder | None = None
    """The label set of `segray annotate`, zero-shot labels of the unlabelled images; null: there is none."""
    labelled: Text = "all"
    """Images whose masks are learnt from: a split file, a count such as 92, a share such as 1/16, or all."""
    unlabelled: Text | None = None
    """A split file of the images without masks; null: all other training images, masks or not."""
    validation: Text | None = None
    """A split file, a count or a share; null: the data set's val part, without one 1/5 of the masks."""
