"""Class weights and OHEM against cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.semi.supervised import balanced_weights, hardest, pixel_losses, supervised_sums


def logits_of(*probabilities: float) -> Tensor:
    """Logits [1, 2, 1, W] of pixels that give class 0 these probabilities."""
    p = torch.tensor(probabilities)
    return torch.stack([p.log(), (1 - p).log()])[None, :, None]


LABELS = torch.tensor([[[0, 0, 1, 255]]])
LOGITS = logits_of(0.5, 0.25, 0.5, 0.9)


def test_losses_are_weighted_by_the_class_of_the_pixel() -> None:
    losses, weights = pixel_losses(LOGITS, LABELS, torch.tensor([1.0, 3.0]))
    expected = [math.log(2), math.log(4), 3 * math.log(2), 0.0]
    assert losses.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert weights.flatten().tolist() == [1, 1, 3, 0]


def test_the_quotient_is_the_weighted_mean_of_torch() -> None:
    weights = torch.tensor([0.5, 4.0])
    total, weight = supervised_sums(LOGITS, LABELS, weights, None)
    assert (total / weight).item() == pytest.approx((math.log(8) / 2 + 4 * math.log(2)) / 5)
    expected = F.cross_entropy(LOGITS, LABELS, weights, ignore_index=255)
    torch.testing.assert_close(total / weight, expected)


@pytest.mark.parametrize(("share", "kept"), [(1 / 3, [1]), (0.34, [0, 1, 2]), (1.0, [0, 1, 2]), (0.01, [1])])
def test_ohem_keeps_the_share_with_the_highest_loss(share: float, kept: list[int]) -> None:
    losses, _ = pixel_losses(LOGITS, LABELS, None)
    # Of three known pixels, the second has the highest loss; the other two are equal.
    assert hardest(losses, LABELS != 255, share).flatten().nonzero().flatten().tolist() == kept
    total, weight = supervised_sums(LOGITS, LABELS, None, share)
    assert total.item() == pytest.approx(losses.flatten()[kept].sum().item())
    assert weight.item() == len(kept)


def test_without_a_known_pixel_the_sums_are_0_with_a_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    total, weight = supervised_sums(logits, torch.full_like(LABELS, 255), None, 0.5)
    total.backward()
    assert (total.item(), weight.item()) == (0, 0)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_balanced_weights_are_the_inverse_of_the_pixels() -> None:
    assert balanced_weights([90, 10, 0]) == pytest.approx([100 / 180, 5.0, 1.0])
    weights = balanced_weights([90, 10])
    assert (90 * weights[0] + 10 * weights[1]) / 100 == pytest.approx(1)
