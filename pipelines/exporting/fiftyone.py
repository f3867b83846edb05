"""FiftyOne's "ImageSegmentationDirectory": a folder of images and one of grey masks for each split."""

from __future__ import annotations

import json
from collections.abc import Iterator

from segray.pipelines.exporting.base import Encoded, Entries, File, Format, Sample, class_names, stem
from segray.pipelines.io.label_png import encode_gray_png


class FiftyOne(Format):
    """SPLIT/data/ID, SPLIT/labels/ID.png, mask_targets.json; nothing is lost."""

    def image_path(self, image_id: str, split: str) -> str:
        """The id, under the images of its split."""
        return f"{split}/data/{image_id}"

    def label_path(self, image_id: str, split: str) -> str:
        """The image's name with another ending."""
        return f"{split}/labels/{stem(image_id)}.png"

    def encode(self, sample: Sample) -> Encoded:
        """The map as it is."""
        return Encoded(encode_gray_png(sample.label))

    def finish(self, entries: Entries) -> Iterator[File]:  # noqa: ARG002  the formats' signature
        """The names of the ids, as `dataset.default_mask_targets` takes them."""
        targets = {str(i): name for i, name in enumerate(self.target.classes)}
        yield "mask_targets.json", [json.dumps(targets, indent=1).encode(), b"\n"]
        yield class_names(self.target)
