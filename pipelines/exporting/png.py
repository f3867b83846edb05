"""Folders of images and grey PNGs of class ids, as mmsegmentation reads them."""

from __future__ import annotations

from collections.abc import Iterator

from segray.pipelines.exporting.base import Encoded, Entries, File, Format, Sample, class_names, stem
from segray.pipelines.io.label_png import encode_gray_png


class Png(Format):
    """images/SPLIT/ID, annotations/SPLIT/ID.png, class_names.txt; nothing is lost."""

    def image_path(self, image_id: str, split: str) -> str:
        """The id, under the images of its split."""
        return f"images/{split}/{image_id}"

    def label_path(self, image_id: str, split: str) -> str:
        """The image's name with another ending."""
        return f"annotations/{split}/{stem(image_id)}.png"

    def encode(self, sample: Sample) -> Encoded:
        """The map as it is."""
        return Encoded(encode_gray_png(sample.label))

    def finish(self, entries: Entries) -> Iterator[File]:  # noqa: ARG002  the formats' signature
        """The names of the ids."""
        yield class_names(self.target)
