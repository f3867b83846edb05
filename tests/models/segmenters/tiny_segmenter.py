"""A network of a few parameters with the parts that the training code asks for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segray.models.segmenters.base import Segmenter, resample


class TinySegmenter(Segmenter):
    """Two convolutions; no batch statistics, no randomness of its own."""

    perturbed = (0, 1)

    def __init__(self, classes: int, width: int = 6) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.encoder = nn.ModuleList([self.fine, self.coarse])
        self.decoder = nn.Conv2d(2 * width, classes, 1)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        fine = self.fine(images).tanh()
        return fine, self.coarse(fine).tanh()

    def decode(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        fine, coarse = maps
        both = torch.cat([fine, resample(coarse, (fine.shape[-2], fine.shape[-1]))], 1)
        return resample(self.decoder(both), size)


def tiny_segmenter(classes: int = 3, seed: int = 0) -> TinySegmenter:
    """The same weights for the same seed."""
    torch.manual_seed(seed)
    return TinySegmenter(classes)
