"""Logits of one image of any size: in one piece, or by a sliding window where it is large."""

from __future__ import annotations

import torch
from torch import Tensor

from segray.models.segmenters.registry import Segmenter


def normalised(image: Tensor, network: Segmenter, device: torch.device) -> Tensor:
    """float32 [1, 3, H, W] on the device from uint8 [3, H, W], by the network's own mean and deviation."""
    mean = torch.tensor(network.mean, device=device)[:, None, None]
    std = torch.tensor(network.std, device=device)[:, None, None]
    return ((image.to(device).float() / 255 - mean) / std)[None]


@torch.no_grad()
def image_logits(network: Segmenter, image: Tensor, *, window: int | None = None) -> Tensor:
    """Logits [C, H, W] of an image uint8 [3, H, W], at its own size.

    Args:
        network: in evaluation mode; its device is used.
        image: RGB.
        window: side of a sliding window with steps of two thirds of it, as in UniMatch's evaluation;
            probabilities of overlapping windows are averaged (the log of the mean is returned). None, or an
            image that fits into one window: one forward pass.
    """
    device = next(network.parameters()).device
    images = normalised(image, network, device)
    height, width = image.shape[-2:]
    if window is None or (height <= window and width <= window):
        return network(images)[0].float()
    total = torch.zeros(0, device=device)
    hits = torch.zeros(height, width, device=device)
    for y in _starts(height, window):
        for x in _starts(width, window):
            tile = images[:, :, y : y + window, x : x + window]
            p = network(tile)[0].float().softmax(0)
            if not len(total):
                total = torch.zeros(len(p), height, width, device=device)
            total[:, y : y + window, x : x + window] += p
            hits[y : y + window, x : x + window] += 1
    return (total / hits).clamp(min=1e-12).log()


def _starts(length: int, window: int) -> list[int]:
    """Offsets that cover a length; the last window ends where the image ends."""
    last = max(0, length - window)
    return [*range(0, last, max(1, window * 2 // 3)), last]
