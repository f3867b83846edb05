"""Segments on a grid of features: one region per cell, and regions that look alike merged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from segray.models.masks import Segment

NO_REGION = -1
MERGE_DISTANCE = 0.2
"""CorrCLIP's: regions whose cosine is at most this below the greatest one are the same."""


def region_map(
    segments: Sequence[Segment], height: int, width: int, grid: tuple[int, int]
) -> NDArray[np.int64]:
    """The number of the segment at the centre of each cell of a grid, int64 [h, w].

    Where segments overlap, the smaller one is on top, as in a label map.

    Args:
        segments: of the image.
        height: of the image in pixels.
        width: the same.
        grid: (h, w).
    """
    rows, columns = (
        ((np.arange(cells) + 0.5) * size / cells).astype(np.int64)
        for cells, size in zip(grid, (height, width), strict=True)
    )
    regions = np.full(grid, NO_REGION, np.int64)
    for k in sorted(range(len(segments)), key=lambda k: -segments[k].area):
        x, y, w, h = segments[k].box
        top, bottom = np.searchsorted(rows, (y, y + h))
        left, right = np.searchsorted(columns, (x, x + w))
        mask = segments[k].mask[rows[top:bottom, None] - y, columns[left:right] - x]
        regions[top:bottom, left:right][mask] = k
    return regions


def merge_similar(phi: Tensor, regions: Tensor) -> Tensor:
    """Regions numbered from 0 on, where those of like mean features have one number.

    DBSCAN with `min_samples=1` is the connected components of the pairs within its distance.

    Args:
        phi: [h, w, C].
        regions: int64 [h, w]; `NO_REGION` stays.
    """
    numbers, index = torch.unique(regions[regions != NO_REGION], return_inverse=True)
    if not len(numbers):
        return regions
    sums = torch.zeros(len(numbers), phi.shape[-1], device=phi.device)
    sums.index_add_(0, index, phi[regions != NO_REGION].float())
    means = F.normalize(sums, dim=-1)
    cosines = means @ means.T
    near = (cosines.amax() - cosines <= MERGE_DISTANCE).cpu().numpy()
    _, labels = connected_components(near, directed=False)
    merged = regions.clone()
    merged[regions != NO_REGION] = torch.from_numpy(labels.astype(np.int64)).to(phi.device)[index]
    return merged
