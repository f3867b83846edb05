"""What an unlabelled image teaches: enhanced labels (Eq. 7), the smoothed loss (Eq. 8-10), the methods.

Equations count as in "Zero-Shot Pseudo Labels Generation Using SAM and CLIP for Semi-Supervised Semantic
Segmentation" (ICIP 2025, arXiv 2505.19846). A label of 255 stands for "no class is known here".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.semi.methods import METHODS, Method

__all__ = [
    "IGNORE",
    "METHODS",
    "Method",
    "PseudoLabel",
    "default_epsilon",
    "enhanced_label",
    "own_label",
    "smoothed_cross_entropy",
    "total_loss",
]

IGNORE = 255


@dataclass(frozen=True)
class PseudoLabel:
    """What the views of a batch of unlabelled images learn, all [B, H, W].

    Attributes:
        label: int64 class ids, 255 where a pixel teaches nothing.
        valid: bool, the pixels that a loss is the mean over; some of them may have the label 255.
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

    def reordered(self, order: Callable[[Tensor], Tensor]) -> PseudoLabel:
        """The same labels for images in another order; `order` maps a batch to a batch."""
        return PseudoLabel(order(self.label), order(self.valid), order(self.from_model))


@torch.no_grad()
def enhanced_label(
    weak_logits: Tensor,
    zero_shot: Tensor,
    tau: float,
    *,
    padding: Tensor,
    confidence: Tensor | None = None,
    min_confidence: float = 0.0,
) -> PseudoLabel:
    """Eq. 7: the model's class where its greatest probability is at least `tau`, else the zero-shot class.

    tau = 0 is self-training alone, tau > 1 the zero-shot label alone. A pixel whose zero-shot class is not
    known takes the model's class where that is sure enough; otherwise it is ignored and leaves the mean
    (`valid` is False), as padding does. All other pixels count.

    Args:
        weak_logits: [B, C, H, W], predictions for the weak view.
        zero_shot: int64 [B, H, W], 255 where nothing is known.
        tau: probability from which the model is believed.
        padding: bool [B, H, W], pixels outside the image.
        confidence: of the zero-shot label, [B, H, W]: uint8 in 255ths, or float in 0..1; None: sure of all.
        min_confidence: zero-shot pixels less confident than this, in 0..1, count as not known. 0: Eq. 7 as
            it stands.
    """
    own, sure = _prediction(weak_logits, tau)
    if confidence is not None and min_confidence > 0:
        zero_shot = zero_shot.masked_fill(_unit(confidence) < min_confidence, IGNORE)
    label = torch.where(sure, own, zero_shot).masked_fill(padding, IGNORE)
    return PseudoLabel(label, label != IGNORE, sure & ~padding)


@torch.no_grad()
def own_label(weak_logits: Tensor, tau: float, *, padding: Tensor) -> PseudoLabel:
    """The model's class where its greatest probability is at least `tau`, else 255 (FixMatch, UniMatch).

    Unsure pixels stay in `valid`: UniMatch divides by all pixels but padding, so unsure images weigh less.

    Args:
        weak_logits: [B, C, H, W], predictions for the weak view.
        tau: probability from which the model is believed.
        padding: bool [B, H, W], pixels outside the image.
    """
    own, sure = _prediction(weak_logits, tau)
    sure = sure & ~padding
    return PseudoLabel(own.masked_fill(~sure, IGNORE), ~padding, sure)


def _prediction(logits: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    probability, label = logits.float().softmax(1).max(1)
    return label, probability >= tau


def _unit(confidence: Tensor) -> Tensor:
    return confidence if confidence.is_floating_point() else confidence.float() / 255


def default_epsilon(classes: int) -> float:
    """Label smoothing where none is given: 1 / C (Eq. 8)."""
    return 1 / classes


def smoothed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    ignore_index: int = IGNORE,
    valid: Tensor | None = None,
) -> Tensor:
    """Eq. 8: cross-entropy against 1 - epsilon on the label's class and epsilon / (C - 1) on each other one.

    It equals `F.cross_entropy(label_smoothing=epsilon * C / (C - 1))`. Computed in float32 or better. Without
    any valid pixel the loss is 0, with a gradient of 0.

    Args:
        logits: [B, C, H, W].
        labels: int64 [B, H, W]; pixels of `ignore_index` add nothing to the sum.
        epsilon: 0 <= epsilon < 1; 0 is plain cross-entropy.
        ignore_index: the label of unknown pixels.
        valid: bool [B, H, W], the pixels that the mean is over, others add nothing; None: `labels` but
            `ignore_index`.

    Raises:
        ValueError: an epsilon outside 0..1, or smoothing over a single class.
    """
    classes = logits.shape[1]
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon must be 0 or more and less than 1, not {epsilon}")
    if epsilon and classes < 2:
        raise ValueError("label smoothing needs two classes or more: use epsilon 0 for one class")
    known = labels != ignore_index
    valid = known if valid is None else valid
    known = known & valid
    scores = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), 1)
    picked = scores.gather(1, labels.masked_fill(~known, 0)[:, None])[:, 0]
    rest = epsilon / (classes - 1) if epsilon else 0.0
    loss = -(1 - epsilon - rest) * picked
    if epsilon:
        loss = loss - rest * scores.sum(1)
    return loss.masked_fill(~known, 0).sum() / valid.sum().clamp(min=1)


def total_loss(supervised: Tensor, unsupervised: Tensor) -> Tensor:
    """Eq. 10: half of each."""
    return (supervised + unsupervised) / 2
