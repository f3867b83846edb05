"""What published relatives of the enhanced label do: each one a function, none part of the paper's recipe.

A transition matrix in place of equation 7's switch (segray's own proposal); labels that agree within a
segment, a threshold that follows the network and a soft loss (CorrMatch, CVPR 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.label_space import ignore_index_of
from segray.models.semi.objective import PseudoLabel

MOST_SEGMENTS = 1024
"""Of an image, the largest first, that agree; so no step waits for a GPU to count them."""
TAU_MOMENTUM = 0.999

_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class Stages:
    """Which part of a run a step is in.

    Attributes:
        total: steps of the run.
        start: share of the steps, from the first one, that learn from the labelled images alone.
        until: share of the steps after which zero-shot labels are no longer used; None: all are guided.
    """

    total: int
    start: float = 0.0
    until: float | None = None

    def is_guided(self, step: int) -> bool:
        """Whether the step may use zero-shot labels."""
        return self.until is None or step < self._last

    def guidance(self, step: int) -> float:
        """1 in the first step that may use zero-shot labels, falling linearly to 0 after the last one."""
        return max(0.0, 1 - max(0, step - self.supervised) / max(1, self._last - self.supervised))

    @property
    def supervised(self) -> int:
        """How many steps, the first ones, learn from the labelled images alone."""
        return round(self.start * self.total)

    @property
    def _last(self) -> int:
        return self.total if self.until is None else round(self.until * self.total)


@torch.no_grad()
def posterior_label(
    weak_logits: Tensor,
    zero_shot: Tensor,
    transition: Tensor,
    beta: float,
    tau: float | Tensor,
    *,
    padding: Tensor,
) -> PseudoLabel:
    """The likeliest class y of p_y * (T[z, y] / pi_y)^beta where its share is at least `tau`, else unknown.

    With beta = 1 that is Bayes' rule for an independent network and label: T[z, y] is the share of the true
    class y among pixels labelled z, and pi_y, its share anywhere, is in the network's p already. With
    beta = 0, or where the zero-shot class z is unknown, it is the network's own label. As in `pseudo_label`,
    pixels below `tau` stay in `valid`.

    Args:
        weak_logits: [B, C, H, W], predictions p for the weak view.
        zero_shot: int64 [B, H, W], `ignore_index_of` C where the class is unknown.
        transition: [C, C], T[z, y] / pi_y, rows z: how many times as frequent y is there as anywhere.
        beta: how much T counts, 0 to 1.
        tau: minimum share of a label.
        padding: bool [B, H, W], pixels outside the image.
    """
    classes = weak_logits.shape[1]
    unknown = ignore_index_of(classes)
    known = zero_shot != unknown
    evidence = transition.clamp(min=_LEAST_SHARE).log()[zero_shot.masked_fill(~known, 0)].movedim(-1, 1)
    posterior = (F.log_softmax(weak_logits.float(), 1) + beta * evidence * known[:, None]).softmax(1)
    share, label = posterior.max(1)
    sure = (share >= tau) & ~padding
    from_model = sure & (label == weak_logits.argmax(1)) & (label != zero_shot)
    return PseudoLabel(label.masked_fill(~sure, unknown), ~padding, from_model)


@torch.no_grad()
def agreeing_label(
    pseudo: PseudoLabel, weak_logits: Tensor, segments: Tensor, tau: float | Tensor
) -> PseudoLabel:
    """Give a whole segment the class that the network is sure of in most of it (CorrMatch's propagation).

    A segment agrees where the network is sure in a share of at least `tau` of its pixels, and the share of
    one class among these is above `tau`. All of its pixels then have that class and count.

    Args:
        pseudo: the labels so far, [B, H, W].
        weak_logits: [B, C, H, W], predictions for the weak view.
        segments: integer [B, H, W], 1, 2, ... in each image; 0: no segment, as all padding.
        tau: minimum probability of a class that the network is sure of, and both shares.
    """
    batch, classes = weak_logits.shape[:2]
    probability, prediction = weak_logits.float().softmax(1).max(1)
    inside = (segments > 0) & (segments < MOST_SEGMENTS)
    # One place for each segment of each image; place 0 of an image is no segment.
    image = torch.arange(batch, device=segments.device)[:, None, None] * MOST_SEGMENTS
    place = image + segments.long().masked_fill(~inside, 0)
    pixels = _counts(place, batch * MOST_SEGMENTS, torch.ones_like(probability))
    sure = ((probability >= tau) & inside).float()
    votes = _counts(place * classes + prediction, batch * MOST_SEGMENTS * classes, sure).view(-1, classes)
    most, winner = votes.max(1)
    settled = (votes.sum(1) >= tau * pixels) & (most > tau * votes.sum(1))
    chosen = settled[place] & inside
    return PseudoLabel(
        torch.where(chosen, winner[place], pseudo.label), pseudo.valid | chosen, pseudo.from_model | chosen
    )


def _counts(places: Tensor, length: int, weights: Tensor) -> Tensor:
    counts = torch.zeros(length, device=places.device)
    return counts.index_add_(0, places.flatten(), weights.flatten())


@torch.no_grad()
def greatest_confidences(weak_logits: Tensor, valid: Tensor) -> Tensor:
    """For each class the greatest probability among the valid pixels predicted as that class, [C]; 0: none.

    Args:
        weak_logits: [B, C, H, W].
        valid: bool [B, H, W].
    """
    probability, prediction = weak_logits.float().softmax(1).max(1)
    greatest = torch.zeros(weak_logits.shape[1], device=weak_logits.device)
    values = (probability * valid).flatten()
    return greatest.scatter_reduce_(0, prediction.flatten(), values, "amax")


def next_tau(tau: Tensor, greatest: Tensor, momentum: float = TAU_MOMENTUM) -> Tensor:
    """The threshold after a step: it moves towards the mean confidence of the classes that are predicted.

    Args:
        tau: before the step.
        greatest: [C], see `greatest_confidences`, over all workers.
        momentum: share of `tau` that stays.
    """
    seen = (greatest > 0).sum()
    mean = torch.where(seen > 0, greatest.sum() / seen.clamp(min=1), tau)
    return momentum * tau + (1 - momentum) * mean


def soft_loss(weak_logits: Tensor, strong_logits: Tensor, sure: Tensor, valid: Tensor) -> Tensor:
    """KL divergence of a strong view from the weak view, summed over sure pixels, per valid pixel.

    Args:
        weak_logits: [B, C, H, W], without gradient; mixed as the strong view is.
        strong_logits: [B, C, H, W].
        sure: bool [B, H, W], pixels that the network is sure of.
        valid: bool [B, H, W].
    """
    target = F.log_softmax(weak_logits.float(), 1)
    scores = F.log_softmax(strong_logits.float(), 1)
    divergence = F.kl_div(scores, target, reduction="none", log_target=True).sum(1)
    return (divergence * (sure & valid)).sum() / valid.sum().clamp(min=1)
