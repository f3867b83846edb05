"""The loss of labelled images with class weights and with the hardest pixels alone (OHEM)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.label_space import ignore_index_of


def balanced_weights(pixels: Sequence[int]) -> list[float]:
    """Weights of the classes in inverse proportion to their pixels; their mean over all pixels is 1.

    A class without a pixel has the weight 1, which nothing uses.
    """
    present = sum(count > 0 for count in pixels)
    return [sum(pixels) / (present * count) if count else 1.0 for count in pixels]


def pixel_losses(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of each pixel and the pixel's weight, [B, H, W] in float32; 0 where unknown.

    Args:
        logits: [B, C, H, W].
        labels: int64 [B, H, W], `ignore_index_of` C where the class is unknown.
        weights: of each class, [C]; None: 1 for all.
    """
    known = labels != ignore_index_of(logits.shape[1])
    classes = labels.masked_fill(~known, 0)
    losses = F.cross_entropy(logits.float(), classes, reduction="none")
    weight = known.float() if weights is None else weights[classes] * known
    return losses * weight, weight


def hardest(losses: Tensor, known: Tensor, share: float) -> Tensor:
    """Which known pixels are among the `share` of them with the highest loss: bool like `losses`.

    At least one pixel, and all pixels of the same loss as the last one. Nothing waits for the device.

    Args:
        losses: of each pixel.
        known: bool, the pixels that count.
        share: above 0 and at most 1.
    """
    ordered = losses.detach().masked_fill(~known, -1.0).flatten().sort(descending=True).values
    last = (known.sum() * share).ceil().long().clamp(min=1) - 1
    return known & (losses.detach() >= ordered.gather(0, last[None]))


def supervised_sums(
    logits: Tensor, labels: Tensor, weights: Tensor | None, share: float | None
) -> tuple[Tensor, Tensor]:
    """The sum of the pixels' losses and the sum of their weights, whose quotient is the loss.

    Args:
        logits: [B, C, H, W].
        labels: int64 [B, H, W], `ignore_index_of` C where the class is unknown.
        weights: of each class, [C]; None: 1 for all.
        share: of the known pixels, those with the highest loss; None: all.
    """
    losses, weight = pixel_losses(logits, labels, weights)
    if share is not None:
        chosen = hardest(losses, labels != ignore_index_of(logits.shape[1]), share)
        losses, weight = losses * chosen, weight * chosen
    return losses.sum(), weight.sum()


def weights_tensor(weights: Sequence[float] | None, device: torch.device) -> Tensor | None:
    """The weights on a device."""
    return None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
