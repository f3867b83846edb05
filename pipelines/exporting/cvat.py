"""CVAT's own XML ("CVAT for images 1.1"): one file with a mask per object, and labels.json for a new task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from segray.models.label_space import ignored_label
from segray.models.masks import BoolMask, segment_from_mask
from segray.pipelines.exporting.base import Encoded, Entries, Entry, File, Format, Sample, class_names
from segray.pipelines.exporting.objects import objects

TASK = "segray-"
"""What the name of a task starts with; the id of its label set follows."""


class Cvat(Format):
    """images/ID, annotations.xml, labels.json; nothing is lost."""

    has_objects = True

    def image_path(self, image_id: str, split: str) -> str:  # noqa: ARG002  splits are in the XML
        """The id, in the folder of all images."""
        return f"images/{image_id}"

    def encode(self, sample: Sample) -> Encoded:
        """The objects, and the ignored pixels as one more.

        Raises:
            ValueError: a name that XML cannot hold.
        """
        if not all(c.isprintable() or c == " " for c in sample.image_id):
            raise ValueError("a name with characters that XML cannot hold")
        found = [(self.target.classes[i], segment) for i, segment in objects(sample)]
        ignored = sample.label == sample.ignore_index
        if ignored.any():
            found.append((ignored_label(self.target.classes), segment_from_mask(ignored)))
        return Encoded(data=[(name, *segment.box, row_runs(segment.mask)) for name, segment in found])

    def finish(self, entries: Entries) -> Iterator[File]:
        """The XML, and the labels for "Create a task" (Raw)."""
        yield "annotations.xml", self._document(entries)
        yield "labels.json", [json.dumps(list(self._labels()), indent=1).encode(), b"\n"]
        yield class_names(self.target)

    def _labels(self) -> Iterator[dict[str, Any]]:
        for name, colour in zip(self.target.classes[1:], self.target.palette[1:].tolist(), strict=False):
            yield {"name": name, "color": f"#{bytes(colour).hex()}", "type": "mask", "attributes": []}
        name = ignored_label(self.target.classes)
        yield {"name": name, "color": "#ffffff", "type": "mask", "attributes": []}

    def _document(self, entries: Entries) -> Iterator[bytes]:
        yield b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        yield f"<meta><task><name>{TASK}{self.target.set_id}</name><labels>\n".encode()
        for label in self._labels():
            name, colour = escape(label["name"]), label["color"]
            kind = "<type>mask</type><attributes></attributes>"
            yield f"<label><name>{name}</name><color>{colour}</color>{kind}</label>\n".encode()
        yield b"</labels></task></meta>\n"
        numbers = count()
        for split in self.target.splits:
            yield from (_image(next(numbers), entry) for entry in entries(split))
        yield b"</annotations>\n"


def row_runs(mask: BoolMask) -> str:
    """CVAT's run lengths of a mask in its box, row by row, the background first."""
    flat: NDArray[np.bool_] = mask.ravel()
    cuts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], cuts, [flat.size]])).tolist()
    return ",".join(map(str, [0, *runs] if flat[0] else runs))


def _image(number: int, entry: Entry) -> bytes:
    size = f'width="{entry["width"]}" height="{entry["height"]}"'
    name, split = quoteattr(entry["image_id"]), entry["split"]
    lines = [f'<image id="{number}" name={name} subset="{split}" {size}>\n']
    for label, x, y, width, height, runs in entry["data"]:
        place = f'left="{x}" top="{y}" width="{width}" height="{height}"'
        lines.append(f'<mask label={quoteattr(label)} source="auto" occluded="0" rle="{runs}" {place} ')
        lines.append('z_order="0"></mask>\n')
    return "".join([*lines, "</image>\n"]).encode()
