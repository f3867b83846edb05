"""Forward correction against cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segray.models.label_space import ignore_index_of
from segray.models.semi.forward import forward_cross_entropy, mistake_matrix
from segray.models.semi.objective import PseudoLabel, smoothed_cross_entropy

UNKNOWN = ignore_index_of(2)


def test_the_matrix_by_hand() -> None:
    # Recalls 0.9 and 0.5, labels 950 and 50 of 1,000 pixels; each row is shrunk by one pixel.
    matrix = mistake_matrix(np.array([[900, 0], [50, 50]]))
    anywhere = np.array([0.95, 0.05])
    expected = 0.75 * np.eye(2) + 0.25 * anywhere
    assert matrix == pytest.approx((np.array([[900, 0], [50, 50]]) + expected) / np.array([[901], [101]]))


def test_a_class_without_pixels_is_as_right_as_the_others() -> None:
    matrix = mistake_matrix(np.array([[80, 20, 0], [10, 90, 0], [0, 0, 0]]))
    right, anywhere = 0.85, np.array([0.45, 0.55, 0.0])
    assert matrix[2] == pytest.approx(right * np.eye(3)[2] + (1 - right) * anywhere)
    assert matrix.sum(1) == pytest.approx(1)


def target_of(labels: list[int], from_model: list[int], valid: list[int] | None = None) -> PseudoLabel:
    label = torch.tensor([[labels]])
    counted = torch.ones_like(label).bool() if valid is None else torch.tensor([[valid]]).bool()
    return PseudoLabel(label, counted, torch.tensor([[from_model]]).bool())


def logits_of(*pixels: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(pixels).log().T[None, :, None]


def test_the_loss_by_hand() -> None:
    mistakes = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    logits = logits_of((0.8, 0.2), (0.8, 0.2), (0.8, 0.2), (0.8, 0.2))
    # Label 1 has the probability 0.8 * 0.1 + 0.2 * 0.7; the network's own label 0 has Eq. 8; the third pixel
    # is unknown and counts in the mean; the last one does not count.
    target = target_of([1, 0, UNKNOWN, 0], [0, 1, 0, 0], [1, 1, 1, 0])
    loss = forward_cross_entropy(logits, target, mistakes, 0.2)
    smoothed = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    assert loss.item() == pytest.approx((-math.log(0.22) + smoothed) / 3)


def test_labels_without_mistakes_are_the_plain_loss() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.manual_seed(0), dtype=torch.float64)
    label = torch.randint(0, 3, (2, 4, 5), generator=torch.manual_seed(1))
    target = PseudoLabel(label, torch.ones_like(label).bool(), torch.zeros_like(label).bool())
    forward = forward_cross_entropy(logits, target, torch.eye(3, dtype=torch.float64), 0.0)
    assert forward.item() == pytest.approx(smoothed_cross_entropy(logits, label, 0.0).item(), abs=1e-5)


def test_a_label_that_is_mostly_wrong_hardly_moves_a_sure_network() -> None:
    mistakes = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    logits = torch.tensor([4.0, 0.0])[None, :, None, None].requires_grad_()
    target = target_of([1], [0])
    (corrected,) = torch.autograd.grad(forward_cross_entropy(logits, target, mistakes, 0.0), logits)
    (plain,) = torch.autograd.grad(smoothed_cross_entropy(logits, target.label, 0.0), logits)
    assert corrected.abs().max() < 0.05 * plain.abs().max()


def test_no_valid_pixel_is_no_loss() -> None:
    logits = torch.zeros(1, 2, 1, 1, requires_grad=True)
    loss = forward_cross_entropy(logits, target_of([UNKNOWN], [0], [0]), torch.eye(2), 0.0)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
