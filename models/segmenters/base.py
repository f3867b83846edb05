"""What all segmentation networks have in common: an encoder, a decoder, and maps between them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from segray.models.recording import records_graph

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class Segmenter(nn.Module, ABC):
    """A network f = h(g(x)) whose halves can be called alone, as feature perturbation needs.

    Attributes:
        encoder: holds the pretrained parameters.
        decoder: holds all others, which start at random and learn at a higher rate.
        perturbed: indices of the maps that feature perturbation drops channels of.
        mean: of the RGB channels in [0, 1], for normalising the images.
        std: of the RGB channels, as `mean`.
        spare: pattern of further tensors of the official weight files, which the encoder has no use for.
        crop_windows: whether images larger than the training's crops are best predicted in windows of that
            size: positions learned for one grid of tokens lose accuracy when they are resampled for another.
    """

    encoder: nn.Module
    decoder: nn.Module
    perturbed: tuple[int, ...]
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    spare: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    crop_windows: ClassVar[bool] = False

    @abstractmethod
    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps [B, C_i, h_i, w_i], fine to coarse, of normalised images [B, 3, H, W] of any size."""

    @abstractmethod
    def decode(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits [B, classes, *size] of the maps that `encode` returns."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes, H, W] of normalised images [B, 3, H, W]."""
        height, width = images.shape[-2:]
        return self.decode(self.encode(images), (height, width))

    def official_key(self, key: str) -> str:
        """The name that the encoder's tensor `key` has in the official weight files."""
        return key

    def official_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a weight file by their `official_key`, where it may have other names."""
        return dict(state)


def resample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, C, h, w] at another size, bilinear; the same tensor where the size fits already."""
    if not records_graph() and tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def to_patches(images: Tensor, patch: int) -> Tensor:
    """Images resampled to the nearest multiples of the patch size, at least one patch each way.

    As UniMatch V2 evaluates (Yang et al., 2024): at most half a patch of distortion, and no padding that a
    transformer's tokens would see.
    """
    height, width = ((side + patch // 2) // patch * patch for side in images.shape[-2:])
    if not records_graph():
        height, width = max(patch, height), max(patch, width)
    return resample(images, (height, width))


def at_least(images: Tensor, side: int) -> Tensor:
    """Images resampled so that neither side is below `side` pixels; larger ones as they are."""
    if records_graph():
        return images
    height, width = (max(length, side) for length in images.shape[-2:])
    return resample(images, (height, width))
