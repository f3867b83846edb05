from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segray.models.masks import decode_rle
from segray.models.rle import area, checked_runs


def test_run_lengths_are_read_as_pycocotools_reads_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        counts = coco_mask.encode(np.asfortranarray(mask))["counts"]
        runs = checked_runs(counts, height, width)
        inside = np.arange(runs.size) % 2 == 1
        assert np.array_equal(np.repeat(inside, runs).reshape(width, height).T, mask)
        assert area(runs) == mask.sum()
        assert np.array_equal(checked_runs(runs.tolist(), height, width), runs)


def test_a_mask_is_decoded_at_its_own_size_alone() -> None:
    counts = coco_mask.encode(np.asfortranarray(np.ones((40, 50), np.uint8)))["counts"]
    assert decode_rle([40, 50], counts).all()
    for size in ([40, 49], [10_000, 10_000]):
        with pytest.raises(ValueError, match="run lengths that are not those of"):
            decode_rle(size, counts)
