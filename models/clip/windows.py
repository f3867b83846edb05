"""Dense features by a sliding window over an image whose short side fits one window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm

import torch
from torch import Tensor

from segray.models.tiling import begins

LONGEST = 8
"""Sides of a window that an image's long side becomes at most: a strip of paper is squeezed beyond that."""
AT_ONCE = 8
"""Windows that go through a network together."""

Corner = tuple[int, int]


@dataclass(frozen=True)
class Sliding:
    """Windows of one image, all sizes in pixels of the resized image.

    Attributes:
        side: of a window, and of the image's short side.
        stride: between windows; a multiple of `unit`.
        unit: side of a cell of the features' grid; `side` is a multiple of it.
    """

    side: int
    stride: int
    unit: int

    def size_of(self, height: int, width: int) -> Corner:
        """(height, width) that an image of this size is resized to; its proportions change by half a cell."""
        short = min(height, width)
        sides = (-(-self.side * n // (short * self.unit)) * self.unit for n in (height, width))
        rows, columns = (min(n, LONGEST * self.side) for n in sides)
        return rows, columns

    def corners(self, height: int, width: int) -> list[Corner]:
        """(top, left) of the windows of a resized image, which cover it."""
        rows, columns = (begins(length, self.side, self.stride) for length in (height, width))
        return [(y, x) for y in rows for x in columns]


def sliding(side: int, units: tuple[int, ...], unit: int, stride: float) -> Sliding:
    """Windows that all networks can take.

    Args:
        side: of a window; if no network's patches divide it, the next smaller that all do.
        units: sides of the networks' patches.
        unit: of the features.
        stride: of the windows, as a part of their side.

    Raises:
        ValueError: `side` is smaller than the least side that all networks can take.
    """
    step = lcm(*units)
    if side < step:
        patches = " and ".join(str(unit) for unit in units)
        raise ValueError(f"a window of {side} px is too small: patches of {patches} px need {step} or more")
    fitting = side // step * step
    return Sliding(fitting, max(unit, round(fitting * stride) // unit * unit), unit)


def over_windows(
    image: Tensor, windows: Sliding, compute: Callable[[Tensor, list[Corner]], Tensor]
) -> Tensor:
    """The mean of the windows' features at each cell, [h, w, D].

    Logits are linear in them, so that this is the mean of the windows' logits.

    Args:
        image: [3, H, W], of a size that `Sliding.size_of` gives.
        windows: over the image.
        compute: of windows [B, 3, side, side] at these corners, features [B, n, n, D] with n cells a side.
    """
    unit, cells = windows.unit, windows.side // windows.unit
    height, width = image.shape[1] // unit, image.shape[2] // unit
    corners = windows.corners(*image.shape[1:])
    total, count = torch.zeros(0), torch.zeros(height, width, 1, device=image.device)
    for start in range(0, len(corners), AT_ONCE):
        part = corners[start : start + AT_ONCE]
        for (y, x), features in zip(part, compute(cut(image, part, windows.side), part), strict=True):
            if not len(total):
                total = features.new_zeros(height, width, features.shape[-1])
            rows, columns = slice(y // unit, y // unit + cells), slice(x // unit, x // unit + cells)
            total[rows, columns] += features
            count[rows, columns] += 1
    return total / count


def cut(image: Tensor, corners: list[Corner], side: int) -> Tensor:
    """Windows of [..., H, W] at these corners, [B, ..., side, side]."""
    return torch.stack([image[..., y : y + side, x : x + side] for y, x in corners])
