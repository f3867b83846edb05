"""Masks of a label set that is another's: nothing is allocated by its word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.label_set import stored_segments
from segray.pipelines.label_set.stored_segments import decode_segments, number_segments, shown_pixels

SIDE = 1 << 20


def whole(count: int) -> list[dict[str, Any]]:
    """Segments that cover an image of 10 x 10 pixels."""
    size, counts = encode_rle(segment_from_mask(np.ones((10, 10), bool)), 10, 10)
    one = {"rle": {"size": size, "counts": counts}, "predicted_iou": 1.0, "stability_score": 1.0}
    return [one] * count


@pytest.mark.parametrize("read", [decode_segments, number_segments, shown_pixels])
@pytest.mark.parametrize("size", [(SIDE, SIDE), (1 << 14, (1 << 14) + 1), (0, 8), (-SIDE, -SIDE)])
def test_an_image_of_any_size_takes_no_memory(read: Callable[..., object], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"an image of .* pixels \(allowed: at most 268435456\)"):
        read([], *size)


def test_segments_may_cover_an_image_eight_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_segments, "MAX_LABEL_PIXELS", 100)
    assert len(decode_segments(whole(8), 10, 10)) == 8
    with pytest.raises(ValueError, match="9 segments that cover the image more than 8 times"):
        decode_segments(whole(9), 10, 10)
