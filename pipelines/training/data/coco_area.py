"""The area of a COCO annotation without rendering it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask as coco_mask


def area(segmentation: Sequence[Sequence[float]] | Mapping[str, object]) -> int:
    """Pixels that polygons or run lengths cover, to about a pixel's width along the outline.

    Args:
        segmentation: polygons of x, y, x, y, ... or COCO's run lengths, as list or as compressed text.
    """
    if isinstance(segmentation, Mapping):
        return _run_lengths(segmentation)
    return round(sum(_polygon(np.asarray(polygon, float)) for polygon in segmentation))


def _run_lengths(rle: Mapping[str, object]) -> int:
    counts = rle["counts"]
    if isinstance(counts, list):
        # Runs of background and object take turns, background first.
        return int(sum(counts[1::2]))
    return int(coco_mask.area({"size": rle["size"], "counts": str(counts).encode()}))


def _polygon(corners: np.ndarray) -> float:
    """The shoelace formula."""
    x, y = corners[0::2], corners[1::2]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
