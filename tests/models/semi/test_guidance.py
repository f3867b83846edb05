"""Labels and thresholds of published relatives, against cases computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segray.models.semi.guidance import (
    MOST_SEGMENTS,
    Stages,
    agreeing_label,
    greatest_confidences,
    next_tau,
    posterior_label,
    soft_loss,
)
from segray.models.semi.objective import PseudoLabel, pseudo_label

UNKNOWN = 255


def logits_of(*pixels: tuple[float, ...]) -> Tensor:
    """[1, C, 1, N] whose softmax are these probabilities."""
    return torch.tensor(pixels).log().T[None, :, None]


def row(*values: int) -> Tensor:
    return torch.tensor([[values]])


NONE = row(0, 0, 0, 0).bool()
P = logits_of((0.6, 0.4), (0.6, 0.4), (0.6, 0.4), (0.6, 0.4))
T = torch.tensor([[0.5, 0.5], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("beta", "tau", "expected", "own"),
    [
        # z = 0 says nothing: 0.6. z = 1: 0.6 * 0.2 against 0.4 * 0.8, so 0.12 / 0.44 and 0.32 / 0.44 = 0.727.
        (1.0, 0.55, (0, 1, 0, UNKNOWN), (0, 0, 1, 0)),
        (1.0, 0.65, (UNKNOWN, 1, UNKNOWN, UNKNOWN), (0, 0, 0, 0)),
        (1.0, 0.75, (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN), (0, 0, 0, 0)),
        # 0.6 * sqrt(0.2) = 0.268 against 0.4 * sqrt(0.8) = 0.358: 0.571.
        (0.5, 0.55, (0, 1, 0, UNKNOWN), (0, 0, 1, 0)),
        (0.5, 0.58, (0, UNKNOWN, 0, UNKNOWN), (0, 0, 1, 0)),
        (0.0, 0.55, (0, 0, 0, UNKNOWN), (0, 1, 1, 0)),
    ],
)
def test_the_posterior_by_hand(
    beta: float, tau: float, expected: tuple[int, ...], own: tuple[int, ...]
) -> None:
    padding = row(0, 0, 0, 1).bool()
    label = posterior_label(P, row(0, 1, UNKNOWN, 1), T, beta, tau, padding=padding)
    assert torch.equal(label.label, row(*expected))
    assert torch.equal(label.from_model, row(*own).bool())
    assert torch.equal(label.valid, ~padding)


def test_a_posterior_without_guidance_is_the_network_s_label() -> None:
    torch.manual_seed(0)
    logits, padding = torch.randn(2, 5, 6, 7) * 3, torch.rand(2, 6, 7) < 0.2
    zero_shot, transition = torch.randint(0, 5, (2, 6, 7)), torch.zeros(5, 5)
    label = posterior_label(logits, zero_shot, transition, 0.0, 0.6, padding=padding)
    expected = pseudo_label(logits, 0.6, padding=padding)
    assert torch.equal(label.label, expected.label)
    assert torch.equal(label.valid, expected.valid)


def test_a_matrix_that_is_sure_gives_the_zero_shot_label() -> None:
    label = posterior_label(P, row(0, 1, 1, 0), torch.eye(2), 1.0, 0.99, padding=NONE)
    assert torch.equal(label.label, row(0, 1, 1, 0))


SURE, UNSURE = (0.9, 0.1), (0.55, 0.45)


@pytest.mark.parametrize(
    ("pixels", "segments", "expected"),
    [
        # Three of four are sure and agree: 0.75 >= 0.7, all of the segment takes class 0.
        ((SURE, SURE, SURE, UNSURE), (1, 1, 1, 1), (0, 0, 0, 0)),
        # Two of four: too few are sure, the labels stay.
        ((SURE, SURE, UNSURE, UNSURE), (1, 1, 1, 1), (1, 1, 1, 1)),
        # All are sure, but of two classes: 3 of 4 are above 0.7, 2 of 4 are not.
        ((SURE, SURE, SURE, (0.1, 0.9)), (1, 1, 1, 1), (0, 0, 0, 0)),
        ((SURE, SURE, (0.1, 0.9), (0.1, 0.9)), (1, 1, 1, 1), (1, 1, 1, 1)),
        # Two segments and a pixel of none.
        ((SURE, UNSURE, SURE, SURE), (2, 1, 0, 2), (0, 1, 1, 0)),
        # A segment that is not counted.
        ((SURE, SURE, SURE, SURE), (1, 1, MOST_SEGMENTS, 1), (0, 0, 1, 0)),
    ],
)
def test_segments_agree_by_hand(
    pixels: tuple[tuple[float, float], ...], segments: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    before = PseudoLabel(row(1, 1, 1, 1), ~NONE, NONE)
    after = agreeing_label(before, logits_of(*pixels), row(*segments), 0.7)
    assert torch.equal(after.label, row(*expected))
    assert torch.equal(after.from_model, row(*expected) == 0)
    assert torch.equal(after.valid, before.valid)


def test_a_segment_that_agrees_counts_where_nothing_did() -> None:
    before = PseudoLabel(row(0, UNKNOWN, 0, UNKNOWN), row(1, 0, 1, 0).bool(), NONE)
    after = agreeing_label(before, logits_of(SURE, SURE, SURE, SURE), row(1, 1, 0, 0), 0.7)
    assert torch.equal(after.label, row(0, 0, 0, UNKNOWN))
    assert torch.equal(after.valid, row(1, 1, 1, 0).bool())


def test_segments_of_one_number_in_two_images_are_two() -> None:
    logits = torch.cat([logits_of(SURE, SURE), logits_of((0.1, 0.9), (0.1, 0.9))])
    before = PseudoLabel(torch.zeros(2, 1, 2).long(), torch.ones(2, 1, 2).bool(), torch.zeros(2, 1, 2).bool())
    after = agreeing_label(before, logits, torch.ones(2, 1, 2, dtype=torch.int16), 0.7)
    assert torch.equal(after.label, torch.tensor([[[0, 0]], [[1, 1]]]))


def test_the_threshold_moves_to_the_mean_of_the_classes_best() -> None:
    logits = logits_of((0.6, 0.3, 0.1), (0.8, 0.1, 0.1), (0.2, 0.7, 0.1), (0.05, 0.05, 0.9))
    greatest = greatest_confidences(logits, row(1, 1, 1, 0).bool())
    torch.testing.assert_close(greatest, torch.tensor([0.8, 0.7, 0.0]))
    torch.testing.assert_close(
        next_tau(torch.tensor(0.5), greatest, 0.9), torch.tensor(0.9 * 0.5 + 0.1 * 0.75)
    )
    torch.testing.assert_close(next_tau(torch.tensor(0.5), torch.zeros(3), 0.9), torch.tensor(0.5))


def test_the_soft_loss_by_hand() -> None:
    weak, strong = (
        logits_of((0.9, 0.1), (0.6, 0.4), (0.9, 0.1)),
        logits_of((0.5, 0.5), (0.1, 0.9), (0.5, 0.5)),
    )
    strong.requires_grad_()
    loss = soft_loss(weak, strong, row(1, 0, 1).bool(), row(1, 1, 0).bool())
    expected = (0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)) / 2
    torch.testing.assert_close(loss, torch.tensor(expected))
    loss.backward()
    assert strong.grad is not None
    # Of the divergence: q - p of each class, halved; pixels that do not count have none.
    torch.testing.assert_close(strong.grad[0, 0, 0], torch.tensor([(0.5 - 0.9) / 2, 0.0, 0.0]))


def test_the_stages_of_a_run() -> None:
    stages = Stages(total=10, start=0.2, until=0.6)
    assert stages.supervised == 2
    assert [stages.is_guided(s) for s in (2, 5, 6, 9)] == [True, True, False, False]
    assert [stages.guidance(s) for s in (0, 2, 3, 4, 6, 9)] == [1, 1, 0.75, 0.5, 0, 0]
    plain = Stages(total=4)
    assert plain.supervised == 0
    assert all(plain.is_guided(s) for s in range(4))
    assert [plain.guidance(s) for s in range(4)] == [1, 0.75, 0.5, 0.25]
