"""The masks of a label set's segments, decoded; they may come from anyone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.masks import Segment, segment_from_rle
from segray.pipelines.io.label_png import MAX_LABEL_PIXELS

_LAYERS = 8
"""How often the boxes of all segments may cover an image; SAM's do so two to four times."""


def decode_segments(stored: Sequence[Mapping[str, Any]], height: int, width: int) -> list[Segment]:
    """The segments of an image; their own sizes are not believed.

    Args:
        stored: rows of the segments table with rle, predicted_iou and stability_score.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: a mask is not one of the image, or there are too many.
    """
    if min(height, width) < 1 or height * width > MAX_LABEL_PIXELS:
        raise ValueError(f"an image of {width}x{height} pixels (allowed: at most {MAX_LABEL_PIXELS})")
    segments, left = [], max(MAX_LABEL_PIXELS, _LAYERS * height * width)
    for record in stored:
        if record["rle"] is None or list(record["rle"]["size"] or ()) != [height, width]:
            raise ValueError(f"a mask of another size than the image, {width}x{height}")
        scores = (record["predicted_iou"], record["stability_score"])
        segments.append(segment_from_rle((height, width), record["rle"]["counts"], *scores))
        left -= segments[-1].mask.size
        if left < 0:
            raise ValueError(f"{len(stored)} segments that cover the image more than {_LAYERS} times")
    return segments


def shown_pixels(stored: Sequence[Mapping[str, Any]], height: int, width: int) -> NDArray[np.int64]:
    """int64 [K], the pixels of each segment that no smaller one covers.

    Args:
        stored: as of `decode_segments`, with score.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: as of `decode_segments`.
    """
    numbers, order = number_segments(stored, height, width)
    shown = np.zeros(len(stored), np.int64)
    shown[order] = np.bincount(numbers.ravel(), minlength=len(stored) + 1)[1:]
    return shown


def number_segments(
    stored: Sequence[Mapping[str, Any]], height: int, width: int
) -> tuple[NDArray[np.int32], list[int]]:
    """Segments as a map of numbers, [H, W], drawn as by `render_label_map`: the largest is 1, and the lowest.

    0 is where there is none. The list has the place in `stored` of each number.

    Args:
        stored: as of `decode_segments`, with score.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: as of `decode_segments`.
    """
    segments = decode_segments(stored, height, width)
    numbers = np.zeros((height, width), np.int32)
    order = sorted(range(len(stored)), key=lambda k: (-segments[k].area, stored[k]["score"] or 0.0))
    for number, k in enumerate(order, start=1):
        x, y, w, h = segments[k].box
        numbers[y : y + h, x : x + w][segments[k].mask] = number
    return numbers, order
