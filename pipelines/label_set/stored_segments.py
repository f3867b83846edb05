"""The masks of the segments table, checked before they are unpacked: a label set may be anyone's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from segray.models.masks import Segment, decode_rle, segment_from_mask
from segray.models.rle import RLE
from segray.pipelines.io.label_png import MAX_LABEL_PIXELS

_LAYERS = 8
"""How often the boxes of all segments may cover an image; SAM's do so two to four times."""


class StoredMask(TypedDict):
    """The columns of a row of the segments table that its mask needs."""

    rle: RLE
    predicted_iou: float
    stability_score: float


def segments_of(stored: Sequence[StoredMask], height: int, width: int) -> list[Segment]:
    """The segments of an image; their own sizes are not believed.

    Raises:
        ValueError: a mask is not one of the image, or there are too many.
    """
    if min(height, width) < 1 or height * width > MAX_LABEL_PIXELS:
        raise ValueError(f"an image of {width}x{height} pixels (allowed: at most {MAX_LABEL_PIXELS})")
    segments, left = [], max(MAX_LABEL_PIXELS, _LAYERS * height * width)
    for one in stored:
        if one["rle"] is None or list(one["rle"]["size"] or ()) != [height, width]:
            raise ValueError(f"a mask of another size than the image, {width}x{height}")
        mask = decode_rle((height, width), one["rle"]["counts"])
        segments.append(segment_from_mask(mask, one["predicted_iou"], one["stability_score"]))
        left -= segments[-1].mask.size
        if left < 0:
            raise ValueError(f"{len(stored)} segments that cover the image more than {_LAYERS} times")
    return segments
