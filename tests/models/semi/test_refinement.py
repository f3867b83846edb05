"""Labels that follow the edges of their image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.models.label_map import LabelMap
from segray.models.semi.refinement import refined_labels


def halves(height: int, width: int) -> tuple[Tensor, NDArray[np.uint8]]:
    """An image of two colours, one left and one right, with the class of each."""
    right = np.tile(np.arange(width) >= width // 2, (height, 1))
    colours = np.where(right[..., None], np.uint8([200, 60, 40]), np.uint8([30, 90, 160]))
    return torch.from_numpy(colours).permute(2, 0, 1).contiguous(), np.where(right, 2, 1).astype(np.uint8)


def refined(image: Tensor, label: LabelMap, steps: int = 10) -> tuple[LabelMap, NDArray[np.float32]]:
    ((found, share),) = refined_labels(image, label, [steps], 255)
    return found, share


def test_a_label_that_is_out_of_place_moves_to_the_edge() -> None:
    image, truth = halves(64, 96)
    shifted = np.roll(truth, 6, 1)
    shifted[:, :6] = 1
    assert (shifted != truth).mean() > 0.06
    found, share = refined(image, shifted)
    np.testing.assert_array_equal(found, truth)
    assert found.dtype == np.uint8
    assert share.shape == truth.shape
    assert 0.5 < share.min() < share.max() <= 1


def test_one_step_by_hand() -> None:
    """In an image of one colour all neighbours count the same, so a share becomes their mean."""
    label = np.zeros((64, 64), np.uint8)
    label[30:32, 30:32] = 1  # one cell of the grid, of 40 neighbours
    _, share = refined(torch.full((3, 64, 64), 7, dtype=torch.uint8), label, 1)
    # Pixel (32, 32) is a quarter of a cell from its own cell's centre, and three quarters from others'.
    near = 1 / 40
    cell = {(0, 0): near, (-1, 0): near, (0, -1): near, (-1, -1): 0.0}
    weights = {(0, 0): 9 / 16, (-1, 0): 3 / 16, (0, -1): 3 / 16, (-1, -1): 1 / 16}
    object_share = sum(cell[at] * weights[at] for at in cell)
    assert share[32, 32] == pytest.approx(1 - object_share, rel=1e-5)


def test_pixels_without_a_class_stay_so_and_say_nothing() -> None:
    image, truth = halves(48, 64)
    label = np.roll(truth, 6, 1)
    label[:, :6] = 1
    label[:16] = 255
    found, share = refined(image, label)
    assert (found[:16] == 255).all()
    assert (share[:16] == 0).all()
    np.testing.assert_array_equal(found[16:], truth[16:])


def test_the_steps_of_several_numbers_are_those_of_each() -> None:
    image, truth = halves(40, 56)
    label = np.roll(truth, 7, 1)
    together = list(refined_labels(image, label, (0, 1, 3), 255))
    np.testing.assert_array_equal(together[0][0], label)
    assert (together[0][1] == 1).all()
    for (found, share), steps in zip(together, (0, 1, 3), strict=True):
        alone, own_share = refined(image, label, steps)
        np.testing.assert_array_equal(found, alone)
        np.testing.assert_array_equal(share, own_share)
    assert (together[1][0] != together[2][0]).any()


@pytest.mark.parametrize("ids", [[255], [3], [3, 255]])
def test_an_image_with_fewer_than_two_classes_stays_as_it_is(ids: Sequence[int]) -> None:
    label = np.tile(np.array(ids, np.uint8), (8, 8 // len(ids)))
    found, share = refined(torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8), label)
    np.testing.assert_array_equal(found, label)
    np.testing.assert_array_equal(share, label != 255)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (700, 1050)])
def test_any_size(size: tuple[int, int]) -> None:
    image, truth = halves(*size)
    truth[0, 0] = 1
    found, _ = refined(image, truth, 2)
    assert found.shape == size
    assert np.isin(found, [1, 2]).all()
    assert (found == truth).mean() > 0.9


def test_rare_classes_of_very_many_stay_where_they_are() -> None:
    """Sixty-four classes have 160 pixels each, and another one a single pixel amid them."""
    label = np.repeat(np.arange(64, dtype=np.uint16), 4)[:, None].repeat(40, 1)
    label[100, 20] = 300
    image = torch.randint(0, 256, (3, 256, 40), dtype=torch.uint8)
    ((found, _),) = refined_labels(image, label, [5], 65535)
    assert found.dtype == np.uint16
    assert found[100, 20] == 300
    assert (found == 300).sum() == 1
    assert (found != label).any()
