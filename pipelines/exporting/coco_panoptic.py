"""COCO's panoptic format: one PNG of segment ids per image, and a JSON file that names them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from segray.models.masks import Segment, segment_from_mask
from segray.pipelines.exporting.base import Encoded, Entry, Sample, stem
from segray.pipelines.exporting.coco import CocoFormat
from segray.pipelines.exporting.objects import objects


class CocoPanoptic(CocoFormat):
    """SPLIT2017/ID, annotations/panoptic_SPLIT2017/ID.png and .json; nothing is lost.

    The background is a segment of the category 0, which is no thing; ignored pixels are in no segment.
    """

    kind = "panoptic"

    def label_path(self, image_id: str, split: str) -> str:
        """The image's name with another ending."""
        return f"annotations/panoptic_{split}2017/{stem(image_id)}.png"

    def encode(self, sample: Sample) -> Encoded:
        """Segment ids count from 1; an id is R + 256 G + 65,536 B of its pixels."""
        ids = np.zeros(sample.label.shape, np.uint32)
        infos = []
        for number, (class_id, segment) in enumerate(_segments(sample), 1):
            x, y, width, height = segment.box
            ids[y : y + height, x : x + width][segment.mask] = number
            infos.append(_info(number, class_id, segment))
        colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(colours).save(buffer, "PNG")
        return Encoded(buffer.getvalue(), infos)

    def categories(self) -> Iterator[dict[str, Any]]:
        """All classes; the background is no thing."""
        for i, name in enumerate(self.target.classes):
            colour = self.target.palette[i].tolist()
            yield {"id": i, "name": name, "supercategory": name, "isthing": int(i > 0), "color": colour}

    def annotations(self, entries: Iterator[Entry]) -> Iterator[dict[str, Any]]:
        """The segments of each image."""
        for number, entry in enumerate(entries, 1):
            name = f"{stem(entry['image_id'])}.png"
            yield {"image_id": number, "file_name": name, "segments_info": entry["data"]}


def _segments(sample: Sample) -> Iterator[tuple[int, Segment]]:
    background = sample.label == 0
    if background.any():
        yield 0, segment_from_mask(background)
    yield from objects(sample)


def _info(number: int, class_id: int, segment: Segment) -> dict[str, Any]:
    known = {"bbox": list(segment.box), "area": segment.area, "iscrowd": 0}
    return {"id": number, "category_id": class_id, **known}
