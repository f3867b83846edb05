"""Scores of pixels that follow the edges of their image: pixel-adaptive mask refinement (PAMR).

Each pixel's scores become a mean of its neighbours', in which neighbours of its own colour count most, step
by step: Araslanov & Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020). Ten steps,
as in its code; NACLIP (WACV 2025) refines CLIP's patches so, with other neighbours. Here on a grid of every
second pixel, or coarser, but never coarser than the scores: those of patches are coarse anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_LEAST_STRIDE = 2
_SIDE = 512
"""Cells of the grid's longer side, at most."""
_VALUES = 1 << 24
"""Cells times classes, at most."""
_DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances of the neighbours, in cells (PAMR's code: in pixels)."""
REFINED_SIDE = _LEAST_STRIDE * _SIDE
"""Longer side in pixels above which more of them say no more."""
_SHARPNESS = 0.1
"""Difference of colour that weakens a neighbour by e, in local standard deviations (PAMR's code)."""
_FLAT = 1e-3
"""Local standard deviation of what has one colour, in grey levels."""
_CLASSES_AT_ONCE = 16

_OFFSETS = [(d * y, d * x) for d in _DILATIONS for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


@torch.no_grad()
def refined(scores: Tensor, image: NDArray[np.uint8], steps: int) -> Tensor:
    """The scores after some steps, [h', w', C] on a finer grid of the whole image, on their device.

    Args:
        scores: float32 [h, w, C], a grid that covers the whole image.
        image: uint8 RGB [H, W, 3].
        steps: 1 or more.
    """
    height, width = image.shape[:2]
    rows, columns = _grid(height, width, scores.shape[-1])
    size = max(rows, scores.shape[0]), max(columns, scores.shape[1])
    channels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(scores.device).permute(2, 0, 1)
    # One by one: a large image in float32 is larger than the models.
    colours = [F.interpolate(channel[None, None].float(), size, mode="area")[0, 0] for channel in channels]
    weights = _weights(torch.stack(colours))
    maps = F.interpolate(scores.permute(2, 0, 1)[None], size, mode="bilinear")[0]
    for some in maps.split(_CLASSES_AT_ONCE):
        for _ in range(steps):
            some.copy_(_mean(some, weights))
    return maps.permute(1, 2, 0)


def _grid(height: int, width: int, classes: int) -> tuple[int, int]:
    stride = max(_LEAST_STRIDE, -(-max(height, width) // _SIDE))
    while -(-height // stride) * -(-width // stride) * classes > _VALUES:
        stride += 1
    return -(-height // stride), -(-width // stride)


def _weights(colours: Tensor) -> Tensor:
    """How much each neighbour of a cell counts, [N, h, w], from colours [3, h, w]."""
    # The cell itself is the centre of each dilation.
    count = len(_OFFSETS) + len(_DILATIONS)
    total, squares = torch.zeros_like(colours), torch.zeros_like(colours)
    for neighbour in _neighbours(colours):
        difference = neighbour - colours
        total += difference
        squares += difference**2
    deviation = ((squares - total**2 / count) / (count - 1)).clamp(min=_FLAT**2).sqrt()
    scale = _SHARPNESS * deviation
    far = torch.stack([((n - colours).abs() / scale).mean(0) for n in _neighbours(colours)])
    return (-far).softmax(0)


def _mean(maps: Tensor, weights: Tensor) -> Tensor:
    """Each cell's mean over its neighbours, of maps [K, h, w]."""
    mean = torch.zeros_like(maps)
    for weight, neighbour in zip(weights, _neighbours(maps), strict=True):
        mean.addcmul_(neighbour, weight)
    return mean


def _neighbours(maps: Tensor) -> Iterator[Tensor]:
    """Maps [K, h, w] shifted by each offset; beyond the border the border's."""
    height, width = maps.shape[1:]
    reach = max(_DILATIONS)
    padded = F.pad(maps[None], (reach,) * 4, mode="replicate")[0]
    for y, x in _OFFSETS:
        yield padded[:, reach + y : reach + y + height, reach + x : reach + x + width]
