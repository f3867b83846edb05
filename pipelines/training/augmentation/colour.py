"""Colour jitter and blur with one factor per image of a batch; the formulas are torchvision's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.transfer import to_device


def to_gray(images: Tensor) -> Tensor:
    """Luma [B, 1, H, W] of images [B, 3, H, W] (ITU-R 601-2)."""
    red, green, blue = images.unbind(1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Images [B, 3, H, W] in 0..1 times factors [B]: 0 is black, 1 changes nothing."""
    return (images * _per_image(factors)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Images [B, 3, H, W] in 0..1, blended with their mean luma by factors [B]: 0 is flat, 1 no change."""
    return _blend(images, to_gray(images).mean((1, 2, 3), keepdim=True), factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Images [B, 3, H, W] in 0..1, blended with their luma by factors [B]: 0 is gray, 1 no change."""
    return _blend(images, to_gray(images), factors)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Images [B, 3, H, W] in 0..1 with their HSV hue shifted by `turns` [B], in full circles.

    A channel of an HSV colour is v - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 hue) mod 6 and
    n = 5, 3, 1 for red, green, blue.
    """
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    hue = _sextant(images, value, chroma) + 6 * turns[:, None, None]
    shares = torch.stack([hue + n for n in (5, 3, 1)], 1).remainder_(6)
    shares = torch.minimum(shares, 4 - shares).clamp_(0, 1)
    return value[:, None] - chroma[:, None] * shares


def _sextant(images: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Six times the hue, [B, H, W]; arbitrary where the chroma is 0."""
    red, green, blue = images.unbind(1)
    span = torch.where(chroma == 0, 1, chroma)
    among_blue = 4 + (red - green) / span
    among_green = torch.where(value == green, 2 + (blue - red) / span, among_blue)
    return torch.where(value == red, (green - blue) / span, among_green)


def _blend(images: Tensor, base: Tensor, factors: Tensor) -> Tensor:
    return torch.lerp(base, images, _per_image(factors)).clamp_(0, 1)


def _per_image(factors: Tensor) -> Tensor:
    return factors[:, None, None, None]


ADJUSTMENTS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_hue,
)


def gaussian_blur(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Images [B, 3, H, W] blurred by Gaussians of sigmas [B] in pixels, cut at 3 sigma, edges mirrored."""
    if images.device.type != "cpu":
        return blur_together(images, sigmas)
    # One image at a time, as sums of shifted images: on a CPU a tenth of the time of a grouped convolution,
    # which has one channel per group and gives every image the radius of the widest kernel.
    return torch.stack([_blurred(image, sigma) for image, sigma in zip(images, sigmas, strict=True)])


def blur_together(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """As `gaussian_blur`, all images by two convolutions: a GPU's time goes by the number of operations."""
    side = min(images.shape[2:])
    halves = [_half_kernel(sigma, side) for sigma in sigmas]
    radius = max(map(len, halves)) - 1
    rows = [[*reversed(half[1:]), *half] for half in halves]
    margins = [[0.0] * ((2 * radius + 1 - len(row)) // 2) for row in rows]
    kernels = torch.tensor([[*pad, *row, *pad] for pad, row in zip(margins, rows, strict=True)])
    channels = images.shape[1]
    weights = to_device(kernels.to(images.dtype), images.device).repeat_interleave(channels, 0)
    flat = F.pad(images, (radius, radius, radius, radius), mode="reflect").flatten(0, 1)[None]
    flat = F.conv2d(flat, weights[:, None, :, None], groups=len(weights))
    return F.conv2d(flat, weights[:, None, None, :], groups=len(weights))[0].unflatten(0, (-1, channels))


def _half_kernel(sigma: float, side: int) -> list[float]:
    """A Gaussian's weights from its centre outwards, for an image whose shorter side is `side` pixels."""
    radius = min(math.ceil(3 * sigma), side - 1)
    half = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(radius + 1)]
    return [weight / (2 * sum(half) - half[0]) for weight in half]


def _blurred(image: Tensor, sigma: float) -> Tensor:
    weights = _half_kernel(sigma, min(image.shape[1:]))
    radius = len(weights) - 1
    padded = F.pad(image, (radius, radius, radius, radius), mode="reflect")
    return _weighted(_weighted(padded, weights, 1), weights, 2)


def _weighted(padded: Tensor, weights: list[float], axis: int) -> Tensor:
    """Convolution along an axis with a symmetric kernel; `weights` are from its centre outwards."""
    radius = len(weights) - 1
    length = padded.shape[axis] - 2 * radius
    total = padded.narrow(axis, radius, length) * weights[0]
    for offset, weight in enumerate(weights[1:], start=1):
        total.add_(padded.narrow(axis, radius - offset, length), alpha=weight)
        total.add_(padded.narrow(axis, radius + offset, length), alpha=weight)
    return total
