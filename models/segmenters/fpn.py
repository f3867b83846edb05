"""A feature pyramid (Lin et al., CVPR 2017; Kirillov et al., CVPR 2019) that a laptop's CPU can train."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segray.models.segmenters.base import resample

_GROUPS = 8


class FPNHead(nn.Module):
    """Maps of all strides, each joined with the coarser ones, are added up at the finest stride.

    Group normalisation: batches are tiny, and several workers must compute what one computes.

    Args:
        channels: of the maps, fine to coarse.
        width: channels of the pyramid; a multiple of 8.
        classes: number of output channels.
    """

    def __init__(self, channels: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([_conv(c, width, 1) for c in channels])
        self.smooth = nn.ModuleList([_conv(width, width, 3) for _ in channels])
        self.refine = _conv(width, width, 3)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Logits [B, classes, h, w] at the size of the finest map."""
        fine = (maps[0].shape[-2], maps[0].shape[-1])
        levels = [resample(level, fine) for level in self._pyramid(maps)]
        return self.classifier(self.refine(torch.stack(levels).sum(0)))

    def _pyramid(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        levels: list[Tensor] = []
        path: Tensor | None = None
        for lateral, smooth, m in zip(self.lateral[::-1], self.smooth[::-1], maps[::-1], strict=True):
            own = lateral(m)
            path = own if path is None else own + resample(path, (own.shape[-2], own.shape[-1]))
            levels.append(smooth(path))
        return levels


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, outputs), nn.ReLU(inplace=True))
