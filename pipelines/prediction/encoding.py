"""From a predicted label map to the bytes of an image's files, and to its statistics."""

from __future__ import annotations

import io
import json
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import LabelSpace, ignore_index_of
from segray.pipelines.annotation.stages.schemas import image_view
from segray.pipelines.engine.rows import Row
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.label_png import encode_gray_png, encode_palette_png
from segray.pipelines.io.pixel_values import row_slices
from segray.pipelines.label_set.schema import class_counts
from segray.pipelines.prediction import coco
from segray.pipelines.prediction.job import Job
from segray.pipelines.training.data.class_names import has_background

_JPEG_SIDE = 65_500
_COUNTED = 1 << 22


class Statistics(TypedDict):
    """Columns of an image's row."""

    class_ids: list[int]
    class_pixels: list[int]
    class_confidence: list[float]
    mean_confidence: float


def statistics(label: LabelMap, confidence: NDArray[np.float32], n_classes: int) -> Statistics:
    """Pixels and mean confidence of each class of a label map, and its mean confidence.

    Args:
        label: [H, W].
        confidence: [H, W].
        n_classes: how many ids there may be.
    """
    ids, pixels = class_counts(label, ignore_index_of(n_classes))
    sums, flat, weights = np.zeros(n_classes), label.ravel(), confidence.ravel()
    # bincount makes 16 bytes of a pixel: in pieces.
    for start in range(0, flat.size, _COUNTED):
        piece = slice(start, start + _COUNTED)
        sums += np.bincount(flat[piece], weights[piece], minlength=n_classes)
    return {
        "class_ids": ids,
        "class_pixels": pixels,
        "class_confidence": (sums[ids] / pixels).tolist(),
        "mean_confidence": float(sums.sum() / label.size),
    }


def encode_row(row: Row, job: Job) -> Row:
    """One image's mask and confidences as PNG, overlay as JPEG, and objects; None for what is not wanted."""
    files, shape = job.files, (row["height"], row["width"])
    label = np.frombuffer(row["label"], label_dtype(ignore_index_of(len(job.classes)))).reshape(shape)
    levels = np.frombuffer(row["confidence"], np.uint8)
    return {
        **row,
        "mask": encode_palette_png(label, _palette(job.classes)) if files.palette else encode_gray_png(label),
        "overlay": overlay(image_view(row), label, job.classes) if files.overlays else None,
        "confidence_png": encode_gray_png(levels.reshape(shape)) if files.confidence else None,
        "objects": _objects(label, levels.reshape(shape), job.classes) if files.coco else None,
    }


def _objects(label: LabelMap, levels: NDArray[np.uint8], classes: tuple[str, ...]) -> str:
    try:
        return json.dumps(coco.scored_annotations(label, levels, classes), separators=(",", ":"))
    except ValueError as problem:
        raise ImageProblem("error", f"coco: {problem}; coco=false writes the mask alone") from problem


def overlay(pixels: NDArray[np.uint8], label: LabelMap, classes: tuple[str, ...]) -> bytes:
    """A JPEG of the image, half covered by the colours of its classes; "no class" stays uncovered.

    JPEG has no sides above 65,535 pixels: larger images are made smaller.

    Args:
        pixels: [H, W, 3], RGB.
        label: [H, W].
        classes: the name of each id.
    """
    image, colours = Image.new("RGB", label.shape[::-1]), _palette(classes) // 2
    for rows in row_slices(pixels):
        blended = pixels[rows] // 2 + colours[label[rows]]
        if has_background(classes):
            blended[label[rows] == 0] = pixels[rows][label[rows] == 0]
        image.paste(Image.fromarray(blended), (0, rows.start))
    image.thumbnail((_JPEG_SIDE, _JPEG_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _palette(classes: tuple[str, ...]) -> NDArray[np.uint8]:
    """uint8 [256 or more, 3], the colours of the ids."""
    return LabelSpace(classes, ()).palette()
