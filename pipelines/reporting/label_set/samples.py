"""One image of the report: label, confidence, photograph and ground truth, if they are available."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.label_space import IGNORE_INDEX, ignore_index_of
from segray.models.metrics import class_iou, pixel_accuracy
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode
from segray.pipelines.io.label_png import decode_label_png
from segray.pipelines.io.sources import read_labelled
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.printing import visible
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.evaluation import compare


@dataclass(frozen=True)
class Legend:
    """Names and colours of the classes.

    Attributes:
        names: C class names.
        palette: uint8 [256 or more, 3].
    """

    names: tuple[str, ...]
    palette: NDArray[np.uint8]

    def colour(self, class_id: int) -> str:
        """As #rrggbb."""
        return "#" + bytes(self.palette[class_id]).hex()


@dataclass(frozen=True)
class Photos:
    """The images of a label set: in its rows, or where its manifest says they are.

    Attributes:
        root: the label set's folder or URI.
        uris: location of images by image_id.
        also: folders of the user, see `read_labelled`.
    """

    root: str
    uris: Mapping[str, str]
    also: tuple[str, ...] = ()

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The bytes of a row's image.

        Raises:
            ImageProblem: why they cannot be had.
        """
        embedded = (row["image"] or {}).get("bytes")
        if embedded is not None:
            return bytes(embedded)
        if row["image_id"] not in self.uris:
            raise ImageProblem("error", "image not in the label set, nor in its manifest")
        try:
            return read_labelled(self.uris[row["image_id"]], row["sha256"], self.root, self.also)
        except ImageProblem as problem:
            reason = "image not found" if problem.reason == "missing" else problem.reason
            raise ImageProblem(problem.status, reason) from None


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
    photos: Photos,
    truth: MaskFolder | None,
) -> Sample:
    """Draw one image.

    Args:
        row: of the labels table, status ok.
        legend: names and colours.
        photos: reads the image of a row without its bytes.
        truth: the masks, or None.

    Raises:
        UserError: a label map of the row, or the mask, is damaged.
    """
    label = map_of(row, "label", ignore_index_of(len(legend.names)))
    confidence = map_of(row, "confidence", IGNORE_INDEX).view(np.uint8)
    height, width = label.shape
    # A label has the size of its image, which the run's own limits allowed.
    limits = ImageOptions(max_pixels=label.size, max_side=max(label.shape), min_size=1, frames="first")
    photo, problem = _photo(row, photos, limits)
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
        **(_truth(row["image_id"], label, legend, truth) if truth else {}),
    )


def map_of(row: Mapping[str, Any], column: str, ignore_index: int) -> LabelMap:
    """The label or confidence map of a row.

    Raises:
        UserError: it is damaged.
    """
    data = row[column]["bytes"] if row[column] else b""
    try:
        return decode_label_png(data, None, ignore_index)
    except ValueError as problem:
        name = visible(row["image_id"])
        raise UserError(f"{column} of {name}: {problem}; `segray verify` checks the whole set") from None


def _photo(row: dict[str, Any], photos: Photos, limits: ImageOptions) -> tuple[str, str]:
    try:
        return thumbnails.photo(decode(photos.read(row), limits)), ""
    except ImageProblem as problem:
        return "", visible(problem.reason)


def _classes(row: dict[str, Any], legend: Legend, n_pixels: int) -> list[tuple[str, str, float]]:
    counts = sorted(zip(row["class_pixels"], row["class_ids"], strict=True), reverse=True)
    inside = [(pixels, i) for pixels, i in counts if 0 < i < len(legend.names)]
    return [(legend.names[i], legend.colour(i), pixels / n_pixels) for pixels, i in inside]


def _truth(image_id: str, label: LabelMap, legend: Legend, truth: MaskFolder) -> dict[str, Any]:
    name = truth.find(image_id)
    if name is None:
        return {"truth_problem": "no mask"}
    height, width = label.shape
    mask = truth.read(name, shape=(height, width), n_classes=len(legend.names))
    confusion = compare(mask, label, len(legend.names))
    iou = class_iou(confusion)[:-1]
    present = iou[~np.isnan(iou)]
    shown = np.where(mask == ignore_index_of(len(legend.names)), 0, mask).astype(mask.dtype)
    return {
        "truth": thumbnails.label_overlay(shown, legend.palette, opaque=True),
        "errors": thumbnails.error_map(mask, label),
        "miou": float(present.mean()) if present.size else float("nan"),
        "accuracy": pixel_accuracy(confusion),
    }
