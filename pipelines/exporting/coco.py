"""COCO's instances: one JSON file per split, masks as compressed run lengths."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import ClassVar

from segray.models.masks import Segment, encode_rle
from segray.pipelines.exporting.base import (
    Encoded,
    Entries,
    Entry,
    File,
    Format,
    Sample,
    class_names,
    document,
)
from segray.pipelines.exporting.objects import objects


class CocoFormat(Format):
    """SPLIT2017/ID, annotations/KIND_SPLIT2017.json: the names that COCO's readers look for."""

    has_objects = True
    kind: ClassVar[str]
    """In the names of the JSON files."""

    def image_path(self, image_id: str, split: str) -> str:
        """The id, in the folder of its split."""
        return f"{split}2017/{image_id}"

    def finish(self, entries: Entries) -> Iterator[File]:
        """The JSON files; ids count from 1 in the order of the label set."""
        for split in self.target.splits:
            yield f"annotations/{self.kind}_{split}2017.json", self.json(partial(entries, split))
        yield class_names(self.target)

    def json(self, entries: Callable[[], Iterator[Entry]]) -> Iterator[bytes]:
        """A JSON file of images and what is in them.

        Args:
            entries: the images; they are asked for twice.
        """
        lists = {
            "categories": self.categories(),
            "images": _images(entries()),
            "annotations": self.annotations(entries()),
        }
        return document(_head(self.target.set_id), lists)

    @abstractmethod
    def categories(self) -> Iterator[dict[str, object]]:
        """The list `categories`."""

    @abstractmethod
    def annotations(self, entries: Iterator[Entry]) -> Iterator[dict[str, object]]:
        """The list `annotations` of a split."""


class Coco(CocoFormat):
    """SPLIT2017/ID, annotations/instances_SPLIT2017.json."""

    kind = "instances"

    def encode(self, sample: Sample) -> Encoded:
        """The objects."""
        height, width = sample.label.shape
        return Encoded(data=[annotation(*found, height, width) for found in objects(sample)])

    def losses(self, ignored: int, lost: int) -> Iterator[str]:  # noqa: ARG002
        """COCO has no mask of pixels that count for nothing."""
        if ignored:
            yield f"{ignored:,} ignored pixels are background: they are in no object"

    def categories(self) -> Iterator[dict[str, object]]:
        """The classes without the background."""
        for i, name in enumerate(self.target.classes[1:], 1):
            yield {"id": i, "name": name, "supercategory": name}

    def annotations(self, entries: Iterator[Entry]) -> Iterator[dict[str, object]]:
        """The objects of all images."""
        numbers = count(1)
        for image, entry in enumerate(entries, 1):
            for annotation in entry["data"]:
                yield {"id": next(numbers), "image_id": image, **annotation}


def _head(set_id: str) -> dict[str, object]:
    info = {"description": "exported by segray", **({"segray_set": set_id} if set_id else {})}
    return {"info": info, "licenses": []}


def _images(entries: Iterator[Entry]) -> Iterator[dict[str, object]]:
    """The list `images` of a COCO file."""
    for number, entry in enumerate(entries, 1):
        size = {"width": entry["width"], "height": entry["height"]}
        yield {"id": number, "file_name": entry["image_id"], **size}


def annotation(class_id: int, segment: Segment, height: int, width: int) -> dict[str, object]:
    """An object of an image as COCO has it, but for its numbers."""
    size, counts = encode_rle(segment, height, width)
    return {
        "category_id": class_id,
        "bbox": list(segment.box),
        "area": segment.area,
        "iscrowd": 0,
        "segmentation": {"size": size, "counts": counts.decode("ascii")},
    }
