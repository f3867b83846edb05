"""A label set of picture-book scenes whose labels are the true masks with known mistakes."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from segray.models.label_space import label_space
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.label_set.store import (
    class_counts,
    labels_schema,
    labels_table,
    segments_schema,
    write_part,
)
from segray.pipelines.scenes.picture_book import draw_scene

SPACE = label_space("picture_book")

PROVENANCE: dict[str, Any] = {
    "classes": list(SPACE.classes),
    "palette": SPACE.palette()[: len(SPACE.classes)].tolist(),
    "ignore_index": 255,
    "prompts": {"names": [list(names) for names in SPACE.aliases], "templates": ["a photo of a {}."]},
    "sam": {"model": "builtin", "sha256": "5a" * 32},
    "clip": {"model": "builtin", "sha256": "c1" * 32, "features": "gem", "logit_scale": 100.0},
    "config": {"images": "scenes", "sam.points_per_side": 16, "label.threshold": 0.0},
    "config_hash": "ab" * 32,
    "versions": {"segray": "0.1.0", "torch": "2.14.1"},
}


def png(image: NDArray[np.uint8]) -> bytes:
    """An RGB [H, W, 3] or grey [H, W] array as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def ok_row(
    image_id: str,
    label: NDArray[np.uint8],
    *,
    confidence: NDArray[np.uint8] | None = None,
    image: bytes | None = None,
) -> dict[str, Any]:
    """A row of a labelled image; without `confidence`, it is 0.8 where there is a class."""
    sure = np.where(label > 0, 204, 0).astype(np.uint8) if confidence is None else confidence
    ids, pixels = class_counts(label)
    painted = sure[sure > 0]
    return {
        "image_id": image_id,
        "image": None if image is None else {"bytes": image, "path": image_id},
        "sha256": None if image is None else hashlib.sha256(image).hexdigest(),
        "width": label.shape[1],
        "height": label.shape[0],
        "label": encode_gray_png(label),
        "confidence": encode_gray_png(sure),
        "class_ids": ids,
        "class_pixels": pixels,
        "mean_confidence": float(painted.mean() / 255) if painted.size else 0.0,
        "labelled_fraction": float((sure > 0).mean()),
        "n_segments": 3,
        "status": "ok",
        "run_id": "test",
    }


def bad_row(image_id: str, status: str = "error", error: str = "not an image") -> dict[str, Any]:
    """A row of an image that has no label."""
    return {"image_id": image_id, "status": status, "error": error, "run_id": "test"}


def write_store(root: Path, *parts: list[dict[str, Any]], provenance: dict[str, Any] | None = None) -> Path:
    """A label set with one part for each list of rows."""
    record = PROVENANCE if provenance is None else provenance
    for rows in parts:
        table = labels_table(rows, labels_schema(record))
        write_part(str(root), table, segments_schema(None, record).empty_table())
    return root


def write_manifest(root: Path, uris: dict[str, str]) -> None:
    """The label set's record of where its images lie."""
    pq.write_table(pa.table({"image_id": list(uris), "uri": list(uris.values())}), root / "manifest.parquet")


def picture_book_store(folder: Path, n: int = 8, size: int = 64, *, embed: bool = False) -> tuple[Path, Path]:
    """Scenes with their labels in `folder`/out, true masks in `folder`/masks.

    Every label is a little out of place, and every third one calls one object another.

    Returns:
        (label set, masks).
    """
    images, masks, out = folder / "images", folder / "masks", folder / "out"
    images.mkdir(parents=True)
    masks.mkdir()
    rows = []
    for index in range(n):
        scene = draw_scene(0, index, size)
        data = png(scene.image)
        (images / f"{index:04}.png").write_bytes(data)
        (masks / f"{index:04}.png").write_bytes(encode_gray_png(scene.mask))
        label, sure = _guess(scene.mask, scene.instances, index)
        row = ok_row(f"{index:04}.png", label, confidence=sure, image=data)
        rows.append(row if embed else {**row, "image": None})
    write_store(out, rows[: n // 2], rows[n // 2 :])
    write_manifest(out, {row["image_id"]: str(images / row["image_id"]) for row in rows})
    return out, masks


def _guess(
    mask: NDArray[np.uint8], instances: NDArray[np.uint8], index: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(index)
    label = np.roll(mask, (index % 3, index % 2), (0, 1))
    if index % 3 == 0:
        label = np.where(instances == 1, (mask % 9) + 1, label).astype(np.uint8)
    levels = rng.integers(60 + 15 * (index % 10), 256, 256)
    return label, np.where(label > 0, levels[instances], 0).astype(np.uint8)
