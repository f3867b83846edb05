from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.label_space import IGNORE_INDEX as IGNORE
from segray.models.semi.objective import (
    METHODS,
    PseudoLabel,
    default_epsilon,
    enhanced_label,
    pseudo_label,
    smoothed_cross_entropy,
    total_loss,
)


def row(*probabilities: tuple[float, ...]) -> Tensor:
    """Logits [1, C, 1, W] with these class probabilities, a tuple for each pixel."""
    return torch.tensor(probabilities, dtype=torch.float64).log().T[None, :, None]


def ids(*values: int) -> Tensor:
    return torch.tensor(values)[None, None]


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)[None, None]


def scene(classes: int = 5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(2, classes, 6, 7, generator=draw)
    return logits, torch.randint(0, classes, (2, 6, 7), generator=draw)


def test_smoothed_cross_entropy_by_hand() -> None:
    # Two pixels of classes 0 and 2, epsilon 0.3: the label's share is 0.7, each other class has 0.15.
    logits = row((0.5, 0.3, 0.2), (0.1, 0.1, 0.8))
    first = -(0.7 * math.log(0.5) + 0.15 * math.log(0.3) + 0.15 * math.log(0.2))
    second = -(0.7 * math.log(0.8) + 0.15 * math.log(0.1) + 0.15 * math.log(0.1))
    loss = smoothed_cross_entropy(logits, ids(0, 2), 0.3)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 5, 81])
def test_smoothing_is_pytorchs_with_another_share(classes: int) -> None:
    logits, labels = scene(classes)
    labels[0, :2] = IGNORE
    epsilon = default_epsilon(classes)
    assert epsilon == 1 / classes
    share = epsilon * classes / (classes - 1)
    theirs = F.cross_entropy(logits, labels, ignore_index=IGNORE, label_smoothing=share)
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, epsilon), theirs)
    assert abs(theirs - F.cross_entropy(logits, labels, ignore_index=IGNORE)) > 1e-3


def test_no_smoothing_is_cross_entropy_with_its_gradient() -> None:
    logits, labels = scene()
    labels[1, 3:] = IGNORE
    gradients = []
    for loss in (
        lambda x: smoothed_cross_entropy(x, labels, 0.0),
        lambda x: F.cross_entropy(x, labels, ignore_index=IGNORE),
    ):
        x = logits.clone().requires_grad_()
        loss(x).backward()
        assert x.grad is not None
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0][1, :, 3:].abs().max() == 0


def test_padding_changes_neither_loss_nor_gradient() -> None:
    logits, labels = scene()
    wide_labels = F.pad(labels, (0, 4, 0, 3), value=IGNORE)
    for junk in (0.0, 100.0, -math.inf):
        wide = F.pad(logits, (0, 4, 0, 3), value=junk)
        wide[:, 0, 6:] = wide[:, 0, :, 7:] = 0
        wide.requires_grad_()
        loss = smoothed_cross_entropy(wide, wide_labels, 0.2)
        torch.testing.assert_close(loss, smoothed_cross_entropy(logits, labels, 0.2))
        loss.backward()
        assert wide.grad is not None
        assert wide.grad[:, 1:, 6:].nan_to_num(0).abs().max() == 0


def test_mean_is_over_valid_pixels_known_or_not() -> None:
    logits = row((0.5, 0.5), (0.25, 0.75), (0.9, 0.1), (0.2, 0.8))
    labels, valid = ids(0, IGNORE, 0, 1), flags(1, 1, 1, 0)
    loss = smoothed_cross_entropy(logits, labels, 0.0, valid=valid)
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.9)) / 3)
    alone = smoothed_cross_entropy(logits, labels, 0.0)
    assert alone.item() == pytest.approx(-(math.log(0.5) + math.log(0.9) + math.log(0.8)) / 3)


def test_nothing_valid_is_a_loss_of_zero_that_can_be_learned_from() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = smoothed_cross_entropy(logits, torch.full((1, 2, 2), IGNORE), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_another_ignore_index() -> None:
    logits, labels = scene(3)
    loss = smoothed_cross_entropy(logits, labels, 0.0, ignore_index=2)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, ignore_index=2))


def test_loss_is_float32_under_autocast() -> None:
    logits, labels = scene()
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = smoothed_cross_entropy(half, labels, 0.2)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, smoothed_cross_entropy(half.float(), labels, 0.2))


@pytest.mark.parametrize(("epsilon", "classes", "text"), [(1.0, 3, "less than 1"), (0.1, 1, "two classes")])
def test_impossible_smoothing_is_refused(epsilon: float, classes: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        smoothed_cross_entropy(torch.zeros(1, classes, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), epsilon)


def test_enhanced_label_by_hand() -> None:
    weak = row((0.1, 0.8, 0.1), (0.1, 0.5, 0.4), (0.7, 0.2, 0.1), (0.1, 0.1, 0.8), (0.4, 0.3, 0.3))
    label = enhanced_label(weak, ids(2, 2, IGNORE, 0, IGNORE), 0.7 - 1e-6, padding=flags(0, 0, 0, 1, 0))
    # sure, unsure, unknown but sure, padding, unknown and unsure
    assert label.label.tolist() == ids(1, 2, 0, IGNORE, IGNORE).tolist()
    assert label.valid.tolist() == flags(1, 1, 1, 0, 0).tolist()
    assert label.from_model.tolist() == flags(1, 0, 1, 0, 0).tolist()
    assert label.label.dtype == torch.int64


def test_a_probability_of_tau_is_enough() -> None:
    weak, padding = torch.zeros(1, 2, 1, 1), flags(0)
    assert enhanced_label(weak, ids(1), 0.5, padding=padding).label.item() == 0
    assert pseudo_label(weak, 0.5, padding=padding).label.item() == 0
    assert enhanced_label(weak, ids(1), 0.5001, padding=padding).label.item() == 1


def test_limits_of_tau() -> None:
    weak, zero_shot = scene()
    zero_shot[0, 0] = IGNORE
    padding = torch.zeros_like(zero_shot, dtype=torch.bool)
    padding[:, :, 5:] = True
    model = enhanced_label(weak, zero_shot, 0.0, padding=padding)
    assert torch.equal(model.label, weak.argmax(1).masked_fill(padding, IGNORE))
    assert torch.equal(model.from_model, ~padding)
    assert torch.equal(model.valid, ~padding)
    given = enhanced_label(weak * 100, zero_shot, 1.01, padding=padding)
    assert torch.equal(given.label, zero_shot.masked_fill(padding, IGNORE))
    assert not given.from_model.any()
    assert torch.equal(given.valid, ~padding & (zero_shot != IGNORE))


def test_unsure_zero_shot_pixels_are_unknown_where_wanted() -> None:
    weak = row((0.9, 0.1), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5))
    zero_shot, padding = ids(1, 1, 1, 1), flags(0, 0, 0, 0)
    confidence = torch.tensor([[[0, 101, 102, 255]]], dtype=torch.uint8)
    for given in (confidence, confidence.float() / 255):
        label = enhanced_label(
            weak, zero_shot, 0.8, padding=padding, confidence=given, min_confidence=102 / 255
        )
        assert label.label.tolist() == ids(0, IGNORE, 1, 1).tolist()
        assert label.valid.tolist() == flags(1, 0, 1, 1).tolist()
        off = enhanced_label(weak, zero_shot, 0.8, padding=padding, confidence=given)
        assert off.label.tolist() == ids(0, 1, 1, 1).tolist()
        assert off.valid.all()


def test_own_label_keeps_unsure_pixels_in_the_mean() -> None:
    weak = row((0.96, 0.04), (0.9, 0.1), (0.02, 0.98), (0.01, 0.99))
    label = pseudo_label(weak, 0.95, padding=flags(0, 0, 0, 1))
    assert label.label.tolist() == ids(0, IGNORE, 1, IGNORE).tolist()
    assert label.valid.tolist() == flags(1, 1, 1, 0).tolist()
    assert label.from_model.tolist() == flags(1, 0, 1, 0).tolist()
    # UniMatch: the sum over sure pixels by the count of all pixels but padding.
    strong = row((0.5, 0.5), (0.3, 0.7), (0.2, 0.8), (0.6, 0.4))
    loss = smoothed_cross_entropy(strong, label.label, 0.0, valid=label.valid)
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 3)


def test_cutmix_mixes_enhanced_labels_by_one_box() -> None:
    own = PseudoLabel(ids(0, 1, 2), flags(1, 1, 0), flags(1, 0, 0))
    other = PseudoLabel(ids(3, IGNORE, 4), flags(0, 0, 1), flags(0, 0, 1))
    mixed = own.mixed(other, flags(0, 1, 1))
    assert mixed.label.tolist() == ids(0, IGNORE, 4).tolist()
    assert mixed.valid.tolist() == flags(1, 0, 1).tolist()
    assert mixed.from_model.tolist() == flags(1, 0, 1).tolist()


def test_mixed_label_is_the_label_of_mixed_inputs() -> None:
    weak, zero_shot = scene()
    padding = torch.zeros_like(zero_shot, dtype=torch.bool)
    padding[0, :, 4:] = True
    boxes = torch.zeros_like(padding)
    boxes[:, 1:5, 2:6] = True
    whole = enhanced_label(weak, zero_shot, 0.7, padding=padding)
    mixed = whole.mixed(whole.reordered(lambda t: t.flip(0)), boxes)
    direct = enhanced_label(
        torch.where(boxes[:, None], weak.flip(0), weak),
        torch.where(boxes, zero_shot.flip(0), zero_shot),
        0.7,
        padding=torch.where(boxes, padding.flip(0), padding),
    )
    assert torch.equal(mixed.label, direct.label)
    assert torch.equal(mixed.valid, direct.valid)
    assert torch.equal(mixed.from_model, direct.from_model)
    assert 0 < mixed.from_model.sum() < mixed.valid.sum() < mixed.valid.numel()


def test_labels_carry_no_gradient() -> None:
    weak = torch.randn(1, 3, 2, 2, requires_grad=True)
    strong = torch.randn(1, 3, 2, 2, requires_grad=True)
    padding = torch.zeros(1, 2, 2, dtype=torch.bool)
    label = enhanced_label(weak, torch.zeros(1, 2, 2, dtype=torch.long), 0.5, padding=padding)
    smoothed_cross_entropy(strong, label.label, 0.1, valid=label.valid).backward()
    assert weak.grad is None
    assert strong.grad is not None


def test_total_loss_is_half_of_each() -> None:
    assert total_loss(torch.tensor(3.0), torch.tensor(1.0)).item() == 2


@pytest.mark.parametrize("name", list(METHODS))
def test_weights_of_a_methods_views_sum_to_one(name: str) -> None:
    method = METHODS[name]
    total = method.strong_views * method.strong_weight + method.feature_view * method.feature_weight
    assert total == (0 if method.pseudo == "none" else 1)


def test_methods_are_the_published_ones() -> None:
    assert list(METHODS) == [
        "supervised",
        "fixmatch",
        "unimatch",
        "unimatch_v2",
        "segray",
        "segray_v2",
        "segray_v3",
    ]
    assert METHODS["segray_v3"] == METHODS["segray_v2"]
    paper = METHODS["segray"]
    assert (paper.strong_weight, paper.feature_weight, paper.default_tau) == (0.25, 0.5, 0.7)
    v2 = {"segray_v2", "segray_v3"}
    assert {name for name, m in METHODS.items() if m.pseudo == "enhanced"} == {"segray", *v2}
    assert {name for name, m in METHODS.items() if m.teacher == "ema"} == {"unimatch_v2", *v2}
    assert {name for name, m in METHODS.items() if m.complementary_dropout} == {"unimatch_v2"}
    assert {n for n, m in METHODS.items() if m.feature_view} == {"unimatch", "segray", *v2}
    assert {m.default_tau for m in METHODS.values() if m.pseudo == "model"} == {0.95}
