"""One image of the report: label, confidence, photograph and ground truth, if they are available."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_space import IGNORE_INDEX
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.ground_truth import TruthMasks
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode, decode_gray_png
from segray.pipelines.printing import visible
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.evaluation import Evaluation, compare

# Limits were applied when the label was made, to the same bytes: see the checksum below.
_ANY_SIZE = ImageOptions(max_pixels=1 << 40, min_size=1, frames="first")


@dataclass(frozen=True)
class Legend:
    """Names and colours of the classes.

    Attributes:
        names: C class names.
        palette: uint8 [256, 3].
    """

    names: tuple[str, ...]
    palette: NDArray[np.uint8]

    def colour(self, class_id: int) -> str:
        """As #rrggbb."""
        return "#" + bytes(self.palette[class_id]).hex()


@dataclass(frozen=True)
class Sample:
    """What the page shows of one image. Images are data URIs, "" if there is none.

    Attributes:
        ratio: width / height of the image boxes, limited for very long images.
        classes: (name, colour, share of the pixels) of each class but 0, the largest first.
        photo_problem: why there is no photograph; "" if there is one.
        truth_problem: why there is no ground truth; "" if there is one.
    """

    image_id: str
    size: str
    ratio: float
    confidence: float
    n_segments: int
    classes: list[tuple[str, str, float]]
    photo: str
    photo_problem: str
    label: str
    confidence_map: str
    truth: str = ""
    errors: str = ""
    truth_problem: str = ""
    miou: float = float("nan")
    accuracy: float = float("nan")


def make_sample(
    row: dict[str, Any],
    legend: Legend,
    uri: str | None,
    truth: TruthMasks | None,
    ignore_index: int = IGNORE_INDEX,
) -> Sample:
    """Draw one image.

    Args:
        row: of the labels table, status ok.
        legend: names and colours.
        uri: location of the image, for rows without its bytes.
        truth: the masks, or None.
        ignore_index: mask pixels with this id do not count.

    Raises:
        UserError: a label map of the row, or the mask, is damaged.
    """
    label, confidence = _map_of(row, "label"), _map_of(row, "confidence")
    photo, problem = _photo(row, uri)
    height, width = label.shape
    return Sample(
        image_id=visible(row["image_id"]),
        size=f"{width} x {height}",
        ratio=min(max(width / height, 0.6), 3.0),
        confidence=row["mean_confidence"],
        n_segments=row["n_segments"] or 0,
        classes=_classes(row, legend, label.size),
        photo=photo,
        photo_problem=problem,
        label=thumbnails.label_overlay(label, legend.palette, opaque=not photo),
        confidence_map=thumbnails.confidence_map(confidence),
        **(_truth(row["image_id"], label, legend, truth, ignore_index) if truth else {}),
    )


def _map_of(row: dict[str, Any], column: str) -> NDArray[np.uint8]:
    try:
        return decode_gray_png(row[column]["bytes"])
    except ValueError as problem:
        name = visible(row["image_id"])
        raise UserError(f"{column} of {name}: {problem}; `segray verify` checks the whole set") from None


def _photo(row: dict[str, Any], uri: str | None) -> tuple[str, str]:
    data = (row["image"] or {}).get("bytes")
    if data is None:
        if uri is None:
            return "", "image not in the label set, nor in its manifest"
        try:
            data = storage.read_bytes(uri)
        except (OSError, UserError):
            return "", "image not found"
    if row["sha256"] and hashlib.sha256(data).hexdigest() != row["sha256"]:
        return "", "image has changed since it was labelled"
    try:
        return thumbnails.photo(decode(data, _ANY_SIZE)), ""
    except ImageProblem as problem:
        return "", visible(problem.reason)


def _classes(row: dict[str, Any], legend: Legend, n_pixels: int) -> list[tuple[str, str, float]]:
    counts = sorted(zip(row["class_pixels"], row["class_ids"], strict=True), reverse=True)
    inside = [(pixels, i) for pixels, i in counts if 0 < i < len(legend.names)]
    return [(legend.names[i], legend.colour(i), pixels / n_pixels) for pixels, i in inside]


def _truth(
    image_id: str, label: NDArray[np.uint8], legend: Legend, truth: TruthMasks, ignore_index: int
) -> dict[str, Any]:
    name = truth.find(image_id)
    if name is None:
        return {"truth_problem": "no mask"}
    height, width = label.shape
    mask = truth.read(name, shape=(height, width), n_classes=len(legend.names), ignore_index=ignore_index)
    score = Evaluation(legend.names, compare(mask, label, len(legend.names), ignore_index), 1)
    shown = np.where(mask == ignore_index, 0, mask).astype(np.uint8)
    return {
        "truth": thumbnails.label_overlay(shown, legend.palette, opaque=True),
        "errors": thumbnails.error_map(mask, label, ignore_index),
        "miou": score.miou,
        "accuracy": score.accuracy,
    }
