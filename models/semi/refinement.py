"""Zero-shot labels that follow the edges of their image: pixel-adaptive mask refinement (PAMR).

Each pixel's class shares become a mean of its neighbours' shares, in which neighbours of its own colour count
most, step by step: Araslanov & Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020). Here
on a grid of at most `_GRID` cells, as labels of patches are coarse anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segray.models.label_map import LabelMap

_GRID = 512
"""Cells of the grid's longer side, at most."""
_LEAST_STRIDE = 2
_DILATIONS = (1, 2, 4, 6, 12)
"""Distances of the neighbours, in cells."""
_SHARPNESS = 0.1
"""Difference of colour that weakens a neighbour by e, in local standard deviations (PAMR's code)."""
_MOST_CLASSES = 64
"""Classes of an image that are refined, the most frequent ones; others stay where they are."""

_OFFSETS = [(d * y, d * x) for d in _DILATIONS for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


@torch.no_grad()
def refined_labels(
    image: Tensor, label: LabelMap, steps: Sequence[int], unknown: int
) -> Iterator[tuple[LabelMap, NDArray[np.float32]]]:
    """The label after some numbers of steps, and the share of its class at each pixel, both [H, W].

    Pixels without a class stay so, and say nothing to others.

    Args:
        image: uint8 [3, H, W].
        label: [H, W].
        steps: rising; 0 is the label as it is.
        unknown: the id of pixels without a class.
    """
    ids = _classes(label, unknown)
    known = label != unknown
    if len(ids) < 2:
        yield from ((label, known.astype(np.float32)) for _ in steps)
        return
    shares, near, done = _coarse(label, ids), _affinities(_on_grid(image.float())), 0
    frequent = np.isin(label, ids)
    for wanted in steps:
        for _ in range(wanted - done):
            shares = _mean_of_neighbours(shares, near)
        done = max(done, wanted)
        if not wanted:
            yield label, known.astype(np.float32)
            continue
        best, share = _greatest(shares, label.shape)
        refined = np.where(frequent, ids[best], label).astype(label.dtype)
        yield refined, np.where(frequent, share, known).astype(np.float32)


def _classes(label: LabelMap, unknown: int) -> NDArray[np.integer]:
    """The most frequent classes of a label, ascending."""
    ids, pixels = np.unique(label[label != unknown], return_counts=True)
    kept = np.argsort(-pixels, kind="stable")[:_MOST_CLASSES]
    return np.sort(ids[kept])


def _on_grid(values: Tensor) -> Tensor:
    """The mean of values [N, H, W] in each cell of the grid."""
    height, width = values.shape[1:]
    stride = max(_LEAST_STRIDE, -(-max(height, width) // _GRID))
    return F.interpolate(values[None], (-(-height // stride), -(-width // stride)), mode="area")[0]


def _coarse(label: LabelMap, ids: NDArray[np.integer]) -> Tensor:
    """The share of each class in each cell, [K, h, w]; class by class, as maps of all would be large."""
    return torch.cat([_on_grid(torch.from_numpy(label == i).float()[None]) for i in ids])


def _affinities(image: Tensor) -> Tensor:
    """How much each neighbour of a cell counts, [N, h, w], from colours [3, h, w]."""
    neighbours = list(_neighbours(image))
    deviation = torch.stack([image, *neighbours]).std(0)
    scale = (_SHARPNESS * deviation).clamp(min=1e-8)
    return torch.stack([-((n - image).abs() / scale).mean(0) for n in neighbours]).softmax(0)


def _mean_of_neighbours(shares: Tensor, near: Tensor) -> Tensor:
    mean = torch.zeros_like(shares)
    for weight, neighbour in zip(near, _neighbours(shares), strict=True):
        mean.addcmul_(neighbour, weight)
    return mean


def _neighbours(values: Tensor) -> Iterator[Tensor]:
    """Values [K, h, w] shifted by each offset; beyond the border the border's."""
    height, width = values.shape[1:]
    reach = max(_DILATIONS)
    padded = F.pad(values[None], (reach,) * 4, mode="replicate")[0]
    for y, x in _OFFSETS:
        yield padded[:, reach + y : reach + y + height, reach + x : reach + x + width]


def _greatest(shares: Tensor, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The class with the greatest share at each pixel, and that share of all; as `_coarse`, one by one."""
    best = torch.zeros(shape, dtype=torch.int64)
    greatest, total = torch.full(shape, -1.0), torch.zeros(shape)
    for i, coarse in enumerate(shares):
        share = F.interpolate(coarse[None, None], shape, mode="bilinear")[0, 0]
        best[share > greatest] = i
        greatest = torch.maximum(greatest, share)
        total += share
    return best.numpy(), (greatest / total.clamp(min=1e-8)).numpy()
