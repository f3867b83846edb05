"""PASCAL VOC's layout: palette PNGs, and lists of images."""

from __future__ import annotations

import re
from collections.abc import Iterator

from segray.pipelines.exporting.base import (
    SPLITS,
    Encoded,
    Entries,
    File,
    Format,
    Sample,
    class_names,
    stem,
)
from segray.pipelines.io.label_png import encode_palette_png

_SETS = "ImageSets/Segmentation"


class Voc(Format):
    """JPEGImages/ID, SegmentationClass/ID.png, ImageSets/Segmentation/SPLIT.txt, labelmap.txt."""

    wide = False

    def image_path(self, image_id: str, split: str) -> str:  # noqa: ARG002  VOC's splits are lists
        """The id, in the folder of all images."""
        return f"JPEGImages/{image_id}"

    def label_path(self, image_id: str, split: str) -> str:  # noqa: ARG002
        """The image's name with another ending."""
        return f"SegmentationClass/{stem(image_id)}.png"

    def encode(self, sample: Sample) -> Encoded:
        """A PNG whose pixels are the ids, and whose palette has the colours of the classes."""
        return Encoded(encode_palette_png(sample.label, self.target.palette))

    def finish(self, entries: Entries) -> Iterator[File]:
        """The lists of images, the names of the ids, and their colours as CVAT writes them."""
        for split in self.target.splits:
            yield f"{_SETS}/{split}.txt", _lines(entries, (split,))
        yield f"{_SETS}/trainval.txt", _lines(entries, SPLITS)
        yield class_names(self.target)
        yield "labelmap.txt", self._colours()

    def _colours(self) -> Iterator[bytes]:
        yield b"# label:color_rgb:parts:actions\n"
        for name, colour in zip(self.target.classes, self.target.palette.tolist(), strict=False):
            # A colon would end the name, and "#" at the front make a comment of it.
            yield f"{re.sub(':|^#', '_', name)}:{','.join(map(str, colour))}::\n".encode()


def _lines(entries: Entries, splits: tuple[str, ...]) -> Iterator[bytes]:
    for split in splits:
        yield from (f"{stem(entry['image_id'])}\n".encode() for entry in entries(split))
