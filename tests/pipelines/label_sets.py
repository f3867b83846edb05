"""Small label sets for the tests of what writes, reads and checks them."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.label_set.store import (
    class_counts,
    labels_schema,
    labels_table,
    segments_schema,
    segments_table,
    write_part,
)

CLASSES = ["background", "Bäume", "house"]
PROVENANCE: dict[str, Any] = {"classes": CLASSES, "ignore_index": 255, "threshold": 0.1}
HEIGHT, WIDTH = 20, 30
IDS = [f"scenes/{name}.jpg" for name in ("a", "ü b", "日本", "d\ne", "-f", "g")]


def label_map() -> NDArray[np.uint8]:
    """uint8 [20, 30] with a box of each class on no class, and a row of ignored pixels."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[2:9, 3:12], label[10:18, 20:], label[19] = 1, 2, 255
    return label


def labelled_row(
    image_id: str, label: NDArray[np.uint8], confidence: NDArray[np.uint8], /, **changes: Any
) -> dict[str, Any]:
    """The row of an image with a label [H, W]."""
    ids, pixels = class_counts(label)
    row = {
        "image_id": image_id,
        "sha256": "0" * 64,
        "width": label.shape[1],
        "height": label.shape[0],
        "label": encode_gray_png(label),
        "confidence": encode_gray_png(confidence),
        "class_ids": ids,
        "class_pixels": pixels,
        "mean_confidence": 0.5,
        "labelled_fraction": 0.25,
        "n_segments": 2,
        "status": "ok",
        "run_id": "run",
    }
    return {**row, **changes}


def ok_row(image_id: str, **changes: Any) -> dict[str, Any]:
    """A labelled image's row."""
    return labelled_row(image_id, label_map(), label_map() // 3, **changes)


def error_row(image_id: str, **changes: Any) -> dict[str, Any]:
    """A bad image's row: no picture, no label, a reason."""
    row = {"image_id": image_id, "status": "error", "error": "truncated", "n_segments": 0, "run_id": "run"}
    return {**row, **changes}


def segment_row(image_id: str, number: int, mask: NDArray[np.bool_], /, **changes: Any) -> dict[str, Any]:
    """The row of a segment with a mask [H, W]."""
    segment = segment_from_mask(mask)
    size, counts = encode_rle(segment, *mask.shape)
    row = {
        "image_id": image_id,
        "segment_id": number,
        "bbox": segment.box,
        "area": segment.area,
        "class_id": 1,
        "score": 0.3,
        "margin": 0.1,
        "runner_up_class": 0,
        "predicted_iou": 0.9,
        "stability_score": 0.95,
        "rle": {"size": size, "counts": counts},
        "embedding": None,
    }
    return {**row, **changes}


def segment_rows(image_id: str, dim: int | None = 4, **changes: Any) -> list[dict[str, Any]]:
    """The two segments of `label_map`; `changes` are made to the first."""
    rows = []
    for class_id in (1, 2):
        embedding = None if dim is None else np.linspace(-1, class_id, dim).astype(np.float16)
        mask = label_map() == class_id
        rows.append(segment_row(image_id, class_id - 1, mask, class_id=class_id, embedding=embedding))
    rows[0].update(changes)
    return rows


def tables(
    rows: Sequence[dict[str, Any]],
    segments: Sequence[dict[str, Any]] | None = None,
    *,
    dim: int | None = 4,
    provenance: dict[str, Any] = PROVENANCE,
) -> tuple[pa.Table, pa.Table]:
    """The two tables of some rows; segments None gives each ok row its two."""
    if segments is None:
        segments = [s for row in rows if row["status"] == "ok" for s in segment_rows(row["image_id"], dim)]
    labels = labels_table(rows, labels_schema(provenance))
    return labels, segments_table(segments, segments_schema(dim, provenance))


def write_manifest(root: str, ids: Sequence[str]) -> None:
    """The list of all images that the label set is about."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image_id": list(ids), "uri": [f"/data/{i}" for i in ids]}), sink)
    storage.write_atomic(storage.join(root, "manifest.parquet"), sink.getvalue().to_pybytes())


def write_set(root: str | Path) -> list[str]:
    """A whole label set of `IDS` in three parts, the last image bad; returns the parts' names."""
    folder = str(root)
    rows = [*(ok_row(i) for i in IDS[:-1]), error_row(IDS[-1])]
    write_manifest(folder, IDS)
    return [write_part(folder, *tables(rows[start : start + 2])) for start in (0, 2, 4)]


@contextlib.contextmanager
def no_file_larger_than(n_bytes: int) -> Iterator[None]:
    """The system refuses to write on at that size, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
