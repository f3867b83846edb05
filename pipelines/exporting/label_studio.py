"""A Label Studio project: the labelling interface, and a task per image with a brush mask per class."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from segray.models.label_space import ignored_label
from segray.pipelines.exporting.base import Encoded, Entries, Entry, File, Format, Sample, class_names
from segray.pipelines.exporting.brush import encode_brush

SET, IMAGE = "segray_set", "segray_image"
"""Keys of a task's data: the id of the label set, and the image_id."""
FROM, TO = "label", "image"


class LabelStudio(Format):
    """images/ID, tasks.json, config.xml; nothing is lost."""

    def image_path(self, image_id: str, split: str) -> str:  # noqa: ARG002  splits are in the tasks
        """The id, in the folder of all images."""
        return f"images/{image_id}"

    def encode(self, sample: Sample) -> Encoded:
        """A brush mask for each class of the image but the background, and for ignored pixels."""
        found, ignored = [], ignored_label(self.target.classes)
        for class_id in np.unique(sample.label).tolist():
            if class_id:
                name = ignored if class_id == sample.ignore_index else self.target.classes[class_id]
                found.append((name, encode_brush(sample.label == class_id)))
        return Encoded(data=found)

    def finish(self, entries: Entries) -> Iterator[File]:
        """The tasks, as one JSON list, and the labelling interface."""
        yield "tasks.json", self._tasks(entries)
        yield "config.xml", [interface(self.target.classes, self.target.palette.tolist()).encode()]
        yield class_names(self.target)

    def _tasks(self, entries: Entries) -> Iterator[bytes]:
        yield b"["
        comma = ""
        for split in self.target.splits:
            for entry in entries(split):
                yield f"{comma}\n{json.dumps(_task(entry, self.target.set_id))}".encode()
                comma = ","
        yield b"\n]\n"


def _task(entry: Entry, set_id: str) -> dict[str, Any]:
    return task(entry["image_id"], set_id, (entry["height"], entry["width"]), entry["data"], entry["split"])


def task(
    image_id: str, set_id: str, size: tuple[int, int], masks: list[tuple[str, list[int]]], split: str = ""
) -> dict[str, Any]:
    """One task, with its masks as a prediction: a person submits it as an annotation.

    Args:
        image_id: of the image.
        set_id: of the label set.
        size: (height, width) in pixels.
        masks: label and brush run lengths.
        split: train or val; "" without one.
    """
    data = {
        "image": f"/data/local-files/?d={quote(f'images/{image_id}')}",
        IMAGE: image_id,
        SET: set_id,
        **({"split": split} if split else {}),
    }
    result = [_result(number, name, runs, size) for number, (name, runs) in enumerate(masks)]
    return {"data": data, "predictions": [{"model_version": "segray", "result": result}]}


def _result(number: int, name: str, runs: list[int], size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    return {
        "id": f"segray-{number}",
        "type": "brushlabels",
        "from_name": FROM,
        "to_name": TO,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": runs, "brushlabels": [name]},
    }


def interface(classes: tuple[str, ...], palette: list[list[int]]) -> str:
    """The labelling interface: brushes and polygons of all classes but the background."""
    colours = [f"#{bytes(colour).hex()}" for colour in palette]
    pairs = [*zip(classes[1:], colours[1:], strict=False), (ignored_label(classes), "#ffffff")]
    labels = "".join(f"    <Label value={quoteattr(name)} background={quoteattr(c)}/>\n" for name, c in pairs)
    return (
        f'<View>\n  <Image name="{TO}" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="{FROM}" toName="{TO}">\n{labels}  </BrushLabels>\n</View>\n'
    )
