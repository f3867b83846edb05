"""The area of a COCO annotation without rendering it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segray.models.rle import area as area_of_runs
from segray.models.rle import checked_runs
from segray.pipelines.training.data.row_masks import checked_rows, is_row_mask


def area(segmentation: Sequence[Sequence[float]] | Mapping[str, Any]) -> int:
    """Pixels that polygons or run lengths cover, to about a pixel's width along the outline.

    Args:
        segmentation: polygons of x, y, x, y, ... or COCO's run lengths, as list or as compressed text.
    """
    if isinstance(segmentation, Mapping):
        height, width = segmentation["size"]
        if is_row_mask(segmentation):
            return area_of_runs(checked_rows(segmentation, height, width))
        return area_of_runs(checked_runs(segmentation["counts"], height, width))
    return round(sum(_polygon(np.asarray(polygon, float)) for polygon in segmentation))


def _polygon(corners: np.ndarray) -> float:
    """The shoelace formula."""
    x, y = corners[0::2], corners[1::2]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
