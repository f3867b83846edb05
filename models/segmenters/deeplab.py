"""DeepLabV3+ (Chen et al., ECCV 2018) on timm's ResNets: the network of UniMatch (Yang et al., CVPR 2023)."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from segray.models.segmenters.base import Segmenter, resample

RATES = (6, 12, 18)
"""Dilations of the three 3x3 branches at output stride 16."""

_WIDTH = 256
_LOW_WIDTH = 48


class DeepLabV3Plus(Segmenter):
    """Maps at strides 4 and 16 of a ResNet with a stem of three convolutions, and an ASPP decoder.

    Its batch normalisation needs at least two images in a training batch.

    Args:
        backbone: a timm ResNet, `resnet50s` or `resnet101s`.
        classes: number of output channels.
    """

    encoder: Any
    perturbed = (0, 1)
    spare = re.compile(r"fc\.")

    def __init__(self, backbone: str, classes: int) -> None:
        super().__init__()
        import timm

        self.encoder = timm.create_model(backbone, features_only=True, output_stride=16, out_indices=(1, 4))
        self.decoder = DeepLabHead(tuple(self.encoder.feature_info.channels()), classes)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """The first stage's map at stride 4 and the last one's at stride 16."""
        return tuple(self.encoder(images))

    def decode(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits at stride 4, resampled to `size`."""
        return resample(self.decoder(maps), size)


class DeepLabHead(nn.Module):
    """Atrous spatial pyramid pooling of the coarse map, joined with the fine one at its resolution.

    Args:
        channels: of the fine and the coarse map.
        classes: number of output channels.
    """

    def __init__(self, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        low, high = channels
        self.branches = nn.ModuleList(
            [_conv(high, _WIDTH), *(_conv(high, _WIDTH, 3, rate) for rate in RATES)]
        )
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), _conv(high, _WIDTH))
        self.project = _conv((len(self.branches) + 1) * _WIDTH, _WIDTH)
        self.reduce = _conv(low, _LOW_WIDTH)
        self.fuse = nn.Sequential(_conv(_WIDTH + _LOW_WIDTH, _WIDTH, 3), _conv(_WIDTH, _WIDTH, 3))
        self.classifier = nn.Conv2d(_WIDTH, classes, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Logits [B, classes, h, w] at the size of the fine map."""
        low, high = maps
        image = self.image(high).expand(-1, -1, *high.shape[-2:])
        pooled = self.project(torch.cat([*(branch(high) for branch in self.branches), image], 1))
        pooled = resample(pooled, (low.shape[-2], low.shape[-1]))
        return self.classifier(self.fuse(torch.cat([self.reduce(low), pooled], 1)))


def _conv(inputs: int, outputs: int, kernel: int = 1, rate: int = 1) -> nn.Sequential:
    padding = rate * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
