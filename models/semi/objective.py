"""The objective for unlabelled images: enhanced labels (Eq. 7) and the smoothed losses (Eq. 8-10).

Equation 7 is `enhanced_label`, 8 `smoothed_cross_entropy`, 10 `total_loss`; the weights of equation 9 are in
`methods.py`. Equation numbers refer to "Zero-Shot Pseudo Labels Generation Using SAM and CLIP for
Semi-Supervised Semantic Segmentation" (ICIP 2025, arXiv 2505.19846). A label of
`ignore_index_of` the number of classes, 255 for up to 254 and a background, means that the class is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.label_space import ignore_index_of
from segray.models.semi.methods import METHODS, Method

__all__ = [
    "METHODS",
    "Method",
    "PseudoLabel",
    "cross_entropies",
    "default_epsilon",
    "enhanced_label",
    "pseudo_label",
    "smoothed_cross_entropy",
    "total_loss",
]


@dataclass(frozen=True)
class PseudoLabel:
    """Target of the loss for a batch of unlabelled images, all [B, H, W].

    Attributes:
        label: int64 class ids, `ignore_index_of` where a pixel adds nothing to the loss.
        valid: bool, the pixels over which the loss is averaged; some of them may have that label.
        from_model: bool, pixels whose class is the network's own prediction.
    """

    label: Tensor
    valid: Tensor
    from_model: Tensor

    def mixed(self, other: PseudoLabel, boxes: Tensor) -> PseudoLabel:
        """CutMix: `other` where `boxes` (bool [B, H, W]) is True, this label elsewhere."""
        return PseudoLabel(
            torch.where(boxes, other.label, self.label),
            torch.where(boxes, other.valid, self.valid),
            torch.where(boxes, other.from_model, self.from_model),
        )

    def with_given(self, given: Tensor, by_hand: Tensor) -> PseudoLabel:
        """The classes `given` where `by_hand` (bool [B, H, W]) is True: what a person gave stays."""
        return PseudoLabel(
            torch.where(by_hand, given, self.label), self.valid | by_hand, self.from_model & ~by_hand
        )

    def reordered(self, order: Callable[[Tensor], Tensor]) -> PseudoLabel:
        """The labels of some images in some order; `order` maps a batch to a batch."""
        return PseudoLabel(order(self.label), order(self.valid), order(self.from_model))


@torch.no_grad()
def enhanced_label(
    weak_logits: Tensor,
    zero_shot: Tensor,
    tau: float | Tensor,
    *,
    padding: Tensor,
    confidence: Tensor | None = None,
    min_confidence: float = 0.0,
) -> PseudoLabel:
    """Eq. 7: the model's class where its greatest probability is at least `tau`, else the zero-shot class.

    tau = 0 uses the model's predictions only, tau > 1 the zero-shot labels only. A pixel is excluded from the
    mean (`valid` is False) if it is padding, or if the model is not confident and its zero-shot class is
    unknown.

    Args:
        weak_logits: [B, C, H, W], predictions for the weak view.
        zero_shot: int64 [B, H, W], `ignore_index_of` C where the class is unknown.
        tau: minimum probability of a class that the model predicts.
        padding: bool [B, H, W], pixels outside the image.
        confidence: of the zero-shot label, [B, H, W]: uint8 in 255ths, or float in 0..1; None: 1 everywhere.
        min_confidence: zero-shot pixels of lower confidence, in 0..1, count as unknown. 0: Eq. 7 unchanged.
    """
    prediction, confident = _prediction(weak_logits, tau)
    unknown = ignore_index_of(weak_logits.shape[1])
    if confidence is not None and min_confidence > 0:
        zero_shot = zero_shot.masked_fill(_unit(confidence) < min_confidence, unknown)
    # Equation 7.
    label = torch.where(confident, prediction, zero_shot).masked_fill(padding, unknown)
    return PseudoLabel(label, label != unknown, confident & ~padding)


@torch.no_grad()
def pseudo_label(weak_logits: Tensor, tau: float | Tensor, *, padding: Tensor) -> PseudoLabel:
    """The model's class where its greatest probability is at least `tau`, else unknown (FixMatch, UniMatch).

    Pixels below `tau` stay in `valid`: as in UniMatch, the loss is averaged over all pixels but padding, so
    images with few confident pixels weigh less.

    Args:
        weak_logits: [B, C, H, W], predictions for the weak view.
        tau: minimum probability of a class that the model predicts.
        padding: bool [B, H, W], pixels outside the image.
    """
    prediction, confident = _prediction(weak_logits, tau)
    confident = confident & ~padding
    unknown = ignore_index_of(weak_logits.shape[1])
    return PseudoLabel(prediction.masked_fill(~confident, unknown), ~padding, confident)


def _prediction(logits: Tensor, tau: float | Tensor) -> tuple[Tensor, Tensor]:
    probability, label = logits.float().softmax(1).max(1)
    return label, probability >= tau


def _unit(confidence: Tensor) -> Tensor:
    return confidence if confidence.is_floating_point() else confidence.float() / 255


def default_epsilon(classes: int) -> float:
    """Default label smoothing for `classes` classes: 1 / C (Eq. 8)."""
    return 1 / classes


def smoothed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    ignore_index: int | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Eq. 8: cross-entropy against 1 - epsilon on the label's class and epsilon / (C - 1) on each other one.

    It equals `F.cross_entropy(label_smoothing=epsilon * C / (C - 1))`. Computed in float32 or better. Without
    any valid pixel the loss is 0, with a gradient of 0.

    Args:
        logits: [B, C, H, W].
        labels: int64 [B, H, W]; pixels of `ignore_index` add nothing to the sum.
        epsilon: 0 <= epsilon < 1; 0 is plain cross-entropy.
        ignore_index: the label of unknown pixels; None: `ignore_index_of` C.
        valid: bool [B, H, W], the pixels over which the loss is averaged; None: all but `ignore_index`.

    Raises:
        ValueError: an epsilon outside 0..1, or smoothing over a single class.
    """
    classes = logits.shape[1]
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon must be 0 or more and less than 1, not {epsilon}")
    if epsilon and classes < 2:
        raise ValueError("label smoothing needs two classes or more: use epsilon 0 for one class")
    known = labels != (ignore_index_of(classes) if ignore_index is None else ignore_index)
    valid = known if valid is None else valid
    known = known & valid
    scores = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), 1)
    loss = cross_entropies(scores, labels.masked_fill(~known, 0), epsilon)
    return loss.masked_fill(~known, 0).sum() / valid.sum().clamp(min=1)


def cross_entropies(scores: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Eq. 8 of each pixel, [B, H, W], of log-probabilities [B, C, H, W] and labels, all of them known."""
    rest = epsilon / (scores.shape[1] - 1) if epsilon else 0.0
    loss = -(1 - epsilon - rest) * scores.gather(1, labels[:, None])[:, 0]
    return loss - rest * scores.sum(1) if epsilon else loss


def total_loss(supervised: Tensor, unsupervised: Tensor) -> Tensor:
    """Eq. 10: the mean of both losses."""
    return (supervised + unsupervised) / 2
