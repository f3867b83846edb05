"""A small label set with blobs, and its export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segray.pipelines.commands.export import ExportResult, export_labels
from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.config.loading import load
from tests.pipelines.label_set.small_store import (
    PROVENANCE,
    bad_row,
    ok_row,
    png,
    write_manifest,
    write_store,
)

HEIGHT, WIDTH = 36, 48
CLASSES = ["background", "road", "car", "rider"]
RECORD = {**PROVENANCE, "classes": CLASSES, "palette": [[0, 0, 0], [9, 8, 7], [200, 0, 0], [0, 0, 200]]}
IDS = ["a/one.png", "a/two three.png", "b/ü.png", "four.png"]

Label = NDArray[np.uint8]


def label_of(number: int) -> Label:
    """Blobs without holes, that touch each other, at corners too, a line of one pixel, and ignored pixels."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[2:12, 3 + number : 20], label[8:20, 15:30] = 1, 2
    label[20 + np.arange(8), 30 + np.arange(8)] = 3
    label[25:35, 2:6], label[25:28, 2:12] = 2, 2
    label[33:, 40:] = 255
    return label


def confidence_of(label: Label) -> Label:
    return np.choose(np.minimum(label, 4), [0, 51, 102, 204, 0]).astype(np.uint8)


LABELS = {image_id: label_of(number) for number, image_id in enumerate(IDS)}


def write_labels(tmp_path: Path, classes: Sequence[str] = CLASSES) -> Path:
    """Four images in two parts, with a bad one; the images are files below photos/."""
    rows, uris = [], {}
    for image_id, label in LABELS.items():
        data = png(np.repeat(label[..., None], 3, -1))
        uris[image_id] = str(tmp_path / "photos" / image_id)
        Path(uris[image_id]).parent.mkdir(parents=True, exist_ok=True)
        Path(uris[image_id]).write_bytes(data)
        rows.append({**ok_row(image_id, label, confidence=confidence_of(label), image=data), "image": None})
    write_store(
        tmp_path / "labels",
        rows[:2],
        [*rows[2:], bad_row("bad.png")],
        provenance={**RECORD, "classes": [*classes]},
    )
    write_manifest(tmp_path / "labels", uris)
    return tmp_path / "labels"


def export(labels: Path, out: Path | str, **keys: object) -> ExportResult:
    overrides = [f"{name}={value}" for name, value in {"labels": labels, "out": out, **keys}.items()]
    return export_labels(load(ExportConfig, None, overrides))


def read(path: Path) -> Label:
    return np.array(Image.open(path))


def no_ignored(label: Label) -> Label:
    return np.where(label == 255, np.uint8(0), label)
