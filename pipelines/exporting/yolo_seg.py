"""YOLO's segmentation format: one text file per image, a polygon per line."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import yaml
from numpy.typing import NDArray

from segray.pipelines.exporting.base import TRAIN, VAL, Encoded, Entries, File, Format, Sample, stem
from segray.pipelines.exporting.objects import objects, outline, parts_of


class YoloSeg(Format):
    """images/SPLIT/ID, labels/SPLIT/ID.txt, data.yaml; classes count from 0, without the background.

    Polygons run along the edges of the pixels, so only holes are lost.
    """

    has_objects = True

    def image_path(self, image_id: str, split: str) -> str:
        """The id, under the images of its split."""
        return f"images/{split}/{image_id}"

    def label_path(self, image_id: str, split: str) -> str:
        """The image's path with labels for images, and another ending."""
        return f"labels/{split}/{stem(image_id)}.txt"

    def encode(self, sample: Sample) -> Encoded:
        """A line per connected part: class, then x and y of each corner as shares of width and height."""
        height, width = sample.label.shape
        lines, lost = [], 0
        for class_id, segment in objects(sample):
            for part in parts_of(segment):
                corners = np.array(outline(part)) + segment.box[:2]
                lost += _area(corners) - int(part.sum())
                numbers = " ".join(f"{value:.6f}" for value in (corners / (width, height)).ravel())
                lines.append(f"{class_id - 1} {numbers}\n")
        return Encoded("".join(lines).encode(), lost=lost)

    def finish(self, entries: Entries) -> Iterator[File]:  # noqa: ARG002  the formats' signature
        """data.yaml, whose paths count from its own folder."""
        names = dict(enumerate(self.target.classes[1:]))
        parts = {split: f"images/{split}" for split in self.target.splits}
        # Ultralytics requires both.
        both = {TRAIN: parts.get(TRAIN, parts.get(VAL)), VAL: parts.get(VAL, parts.get(TRAIN))}
        text = yaml.safe_dump({**both, "names": names}, sort_keys=False, allow_unicode=True)
        yield "data.yaml", [text.encode()]

    def losses(self, ignored: int, lost: int) -> Iterator[str]:
        """Holes, and ignored pixels."""
        if lost:
            yield f"{lost:,} pixels in holes of objects are filled: a polygon has no holes"
        if ignored:
            yield f"{ignored:,} ignored pixels are background: they are in no polygon"
        if len(self.target.splits) == 1:
            yield f"data.yaml names the {self.target.splits[0]} images for both train and val"


def _area(corners: NDArray[np.int64]) -> int:
    """Pixels inside a polygon whose corners are whole numbers: Gauss's formula."""
    x, y = corners.T
    return abs(int(x @ np.roll(y, -1)) - int(y @ np.roll(x, -1))) // 2
