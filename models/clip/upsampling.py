"""Class maps at the size of their image, a band of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

_VALUES = 1 << 24
"""Of maps at full width but not height, at most, that are kept from band to band."""


class Upsampled:
    """Maps [C, h, w] brought to [C, H, W] by bilinear interpolation, as `align_corners=False` means it.

    Args:
        maps: of the classes, over the whole image.
        height: H in pixels.
        width: W in pixels.
    """

    def __init__(self, maps: Tensor, height: int, width: int) -> None:
        above, below, weight = _taps(height, maps.shape[1])
        self._between = above.tolist(), below.tolist()
        self._rows = tuple(part.to(maps.device) for part in (above, below, weight[:, None]))
        self._columns = tuple(part.to(maps.device) for part in _taps(width, maps.shape[2]))
        self._maps, self._across = maps, None
        if maps.shape[0] * maps.shape[1] * width <= _VALUES:
            self._across = self._at_full_width(maps)

    def band(self, top: int, bottom: int) -> Tensor:
        """Rows `top` to `bottom`, which is left out, [C, bottom - top, W]."""
        first, last = self._between[0][top], self._between[1][bottom - 1]
        above, below, weight = (part[top:bottom] for part in self._rows)
        rows = slice(first, last + 1)
        kept = self._across
        across = self._at_full_width(self._maps[:, rows]) if kept is None else kept[:, rows]
        return torch.lerp(across[:, above - first], across[:, below - first], weight)

    def _at_full_width(self, maps: Tensor) -> Tensor:
        left, right, weight = self._columns
        return torch.lerp(maps[..., left], maps[..., right], weight)


def _taps(size: int, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` samples the two of `grid` that it lies between, and the second one's share."""
    at = ((torch.arange(size, dtype=torch.float64) + 0.5) * (grid / size) - 0.5).clamp(0, grid - 1)
    before = at.long()
    return before, (before + 1).clamp(max=grid - 1), (at - before).float()
