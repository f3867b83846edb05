from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segray.models import masks
from segray.models.masks import decode_rle, encode_rle, segment_from_mask, segment_from_rle
from segray.models.rle import MAX_COUNTS, area, checked_runs


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


def random_mask(rng: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Noise, blobs and full columns, inside a box that may touch the edges."""
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    mask = np.zeros((height, width), bool)
    top, left = int(rng.integers(height)), int(rng.integers(width))
    box = mask[top : top + int(rng.integers(1, 41)), left : left + int(rng.integers(1, 41))]
    box |= rng.random(box.shape) < rng.choice([0.1, 0.9, 1.0])
    mask[top, left] = True
    return mask


@pytest.mark.parametrize("large", [0, 1 << 22])
def test_a_crop_has_the_bytes_that_pycocotools_gives_the_whole_mask(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "_LARGE", large)
    rng = np.random.default_rng(1)
    for _ in range(500):
        mask = random_mask(rng)
        segment = segment_from_mask(mask, 0.5, 0.25)
        size, counts = encode_rle(segment, *mask.shape)
        assert counts == coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))["counts"]
        back = segment_from_rle(size, counts, 0.5, 0.25)
        assert (back.box, back.area, back.predicted_iou) == (segment.box, segment.area, 0.5)
        assert np.array_equal(back.mask, segment.mask)


@pytest.mark.parametrize("large", [0, 1 << 22])
def test_an_empty_mask_is_no_segment(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_LARGE", large)
    counts = coco_mask.encode(np.zeros((4, 5), np.uint8, order="F"))["counts"]
    with pytest.raises(ValueError, match="a segment needs at least one pixel, this mask is empty"):
        segment_from_rle((4, 5), counts)


@pytest.mark.parametrize("counts", [b"0" * (MAX_COUNTS + 1), "0" * (MAX_COUNTS + 1), [0] * (MAX_COUNTS + 1)])
def test_run_lengths_of_any_number_are_not_read(counts: bytes | str | list[int]) -> None:
    with pytest.raises(ValueError, match=r"run lengths of 4194305 numbers \(allowed: at most 4194304\)"):
        checked_runs(counts, 1, 1)
