"""Class maps at the size of their image, a band of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor


class Upsampled:
    """Maps [C, h, w] brought to [C, H, W] by bilinear interpolation, as `align_corners=False` means it.

    Args:
        maps: of the classes, over the whole image.
        height: H in pixels.
        width: W in pixels.
    """

    def __init__(self, maps: Tensor, height: int, width: int) -> None:
        self._maps = maps
        self._rows = _taps(height, maps.shape[1])
        self._columns = tuple(part.to(maps.device) for part in _taps(width, maps.shape[2]))

    def band(self, top: int, bottom: int) -> Tensor:
        """Rows `top` to `bottom`, which is left out, [C, bottom - top, W]."""
        above, below, weight = (part[top:bottom] for part in self._rows)
        first, last = int(above[0]), int(below[-1])
        left, right, share = self._columns
        # Of the maps only what the band lies between: at full width all would take gigabytes.
        some = self._maps[:, first : last + 1]
        across = torch.lerp(some[..., left], some[..., right], share)
        device = across.device
        upper, lower = (across[:, (rows - first).to(device)] for rows in (above, below))
        return torch.lerp(upper, lower, weight[:, None].to(device))


def _taps(size: int, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` samples the two of `grid` that it lies between, and the second one's share."""
    at = ((torch.arange(size, dtype=torch.float64) + 0.5) * (grid / size) - 0.5).clamp(0, grid - 1)
    before = at.long()
    return before, (before + 1).clamp(max=grid - 1), (at - before).float()
