"""Scores that follow the edges of their image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from segray.models.clip import refinement
from segray.models.clip.refinement import refined


def halves(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An image of two colours, one left and one right, and where the right one is."""
    right = np.tile(np.arange(width) >= width // 2, (height, 1))
    colours = np.array([[30, 90, 160], [200, 60, 40]], np.uint8)
    return colours[right.astype(int)], right


def naive(scores: NDArray[np.float64], image: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Both on the same grid, [h, w, C] and [h, w, 3]: PAMR cell by cell."""
    height, width = image.shape[:2]
    eight = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    offsets = [(d * y, d * x) for d in (1, 2, 4, 8, 12, 24) for y, x in eight]
    for _ in range(steps):
        result = np.zeros_like(scores)
        for y in range(height):
            for x in range(width):
                at = [(np.clip(y + b, 0, height - 1), np.clip(x + a, 0, width - 1)) for b, a in offsets]
                around = np.array([image[p] for p in at])
                deviation = np.std(np.vstack([around, *[image[y, x]] * 6]), axis=0, ddof=1)
                far = np.abs(around - image[y, x]) / (0.1 * np.maximum(deviation, 1e-3))
                weights = np.exp(-far.mean(1))
                result[y, x] = weights @ np.array([scores[p] for p in at]) / weights.sum()
        scores = result
    return scores


@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_is_the_mean_of_neighbours_of_the_same_colour(steps: int) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 12, 3))
    # Each cell of the grid is two by two pixels of one colour.
    image = coarse.repeat(2, 0).repeat(2, 1).astype(np.uint8)
    scores = rng.normal(size=(9, 12, 4))
    found = refined(torch.from_numpy(scores).float(), image, steps).numpy()
    np.testing.assert_allclose(found, naive(scores, coarse.astype(float), steps), rtol=2e-4, atol=2e-5)


def test_scores_that_are_out_of_place_move_to_the_edge() -> None:
    image, right = halves(64, 96)
    shifted = np.roll(right, 6, 1)
    shifted[:, :6] = False
    scores = torch.from_numpy(np.stack([~shifted, shifted], -1)[::2, ::2]).float()
    found = refined(scores, image, 10)
    assert found.shape == (32, 48, 2)
    assert (shifted != right).mean() > 0.06
    np.testing.assert_array_equal(found.argmax(-1).numpy(), right[::2, ::2])


def test_scores_of_one_colour_become_more_alike_and_keep_their_bounds() -> None:
    scores = torch.rand(10, 14, 3, generator=torch.Generator().manual_seed(0))
    image = np.full((40, 56, 3), 7, np.uint8)
    plain = F.interpolate(scores.permute(2, 0, 1)[None], (20, 28), mode="bilinear")[0].permute(1, 2, 0)
    few, many = (refined(scores, image, steps) for steps in (1, 10))
    spreads = [maps.flatten(0, 1).std(0).mean() for maps in (plain, few, many)]
    assert spreads[0] > spreads[1] > spreads[2]
    assert scores.min() <= many.min() <= many.max() <= scores.max()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (700, 1050)])
def test_any_size(size: tuple[int, int]) -> None:
    image, _ = halves(*size)
    scores = torch.rand(4, 6, 2, generator=torch.Generator().manual_seed(0))
    found = refined(scores, image, 2)
    stride = 3 if max(size) > 1024 else 2
    assert found.shape == (max(4, -(-size[0] // stride)), max(6, -(-size[1] // stride)), 2)
    assert found.isfinite().all()


def test_many_classes_have_a_coarser_grid_and_each_its_own_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    scores = torch.rand(8, 12, 40, generator=torch.Generator().manual_seed(0))
    all_at_once = refined(scores, image, 2)
    monkeypatch.setattr(refinement, "_CLASSES_AT_ONCE", 3)
    torch.testing.assert_close(refined(scores, image, 2), all_at_once)
    monkeypatch.setattr(refinement, "_VALUES", 40 * 200)
    assert refined(scores, image, 2).shape == (11, 16, 40)


def test_a_long_strip_keeps_the_rows_of_its_scores() -> None:
    """Every second row of the scores is of another class, and of another colour."""
    odd = np.arange(28) % 2 == 1
    colours = np.array([[30, 90, 160], [200, 60, 40]], np.uint8)[odd.astype(int)]
    image = colours.repeat(4, 0)[:, None].repeat(6000, 1)
    scores = torch.from_numpy(np.stack([~odd, odd], -1)[:, None].repeat(28, 1)).float()
    found = refined(scores, image, 3)
    assert found.shape == (28, 500, 2)
    np.testing.assert_array_equal(found.argmax(-1).numpy() == 1, odd[:, None].repeat(500, 1))


def test_scores_given_stay_as_they_were() -> None:
    scores = torch.rand(20, 28, 2)
    before = scores.clone()
    refined(scores, np.zeros((40, 56, 3), np.uint8), 3)
    assert torch.equal(scores, before)
