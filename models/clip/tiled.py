"""Features of an image tile by tile: pooled over segments that lie in several tiles, and pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.models.clip.zero_shot import PixelClasses, dense_labels, pool_segments
from segray.models.masks import Box, Segment
from segray.models.tiling import Tile, clipped, slices

if TYPE_CHECKING:  # open_clip takes seconds to import
    from segray.models.clip.text import ZeroShotClassifier


@dataclass(frozen=True)
class TileFeatures:
    """Dense features [h, w, D] of a tile."""

    tile: Tile
    grid: Tensor


def pool_tiles(tiles: Sequence[TileFeatures], segments: Sequence[Segment]) -> Tensor:
    """Eq. 1 over tiles: the mean over a segment's pixels, each with the features of the tile that it is in.

    Args:
        tiles: of the image; their cores cover it once.
        segments: K of the image; the result is [K, D].
    """
    if len(tiles) == 1:
        return pool_segments(tiles[0].grid, segments, *_size(tiles[0].tile))
    device = tiles[0].grid.device
    total = torch.zeros(len(segments), tiles[0].grid.shape[-1], device=device)
    for one in tiles:
        parts = list(clipped(segments, one.tile.core, one.tile.box))
        if parts:
            means = pool_segments(one.grid, [part for _, part in parts], *_size(one.tile))
            numbers = torch.tensor([k for k, _ in parts], device=device)
            pixels = torch.tensor([float(part.area) for _, part in parts], device=device)
            total.index_add_(0, numbers, means.float() * pixels[:, None])
    areas = torch.tensor([float(segment.area) for segment in segments], device=device)
    return total / areas[:, None]


def label_tiles(
    tiles: Sequence[TileFeatures],
    classifier: ZeroShotClassifier,
    size: tuple[int, int],
    threshold: float,
    image: NDArray[np.uint8] | None = None,
    steps: int = 0,
) -> PixelClasses:
    """As `dense_labels`, each pixel by the tile in whose core it is.

    Args:
        tiles: of the image.
        classifier: the class names.
        size: (height, width) of the image.
        threshold: see `dense_labels`.
        image: uint8 RGB [H, W, 3], whose edges the labels follow. With several tiles it has this size.
        steps: of `refined`; 0: none.
    """
    maps: PixelClasses | None = None
    for one in tiles:
        part = image if image is None or len(tiles) == 1 else image[one.tile.inside]
        of_tile = dense_labels(one.grid, classifier, *_size(one.tile), threshold, part, steps)
        if maps is None:
            maps = PixelClasses(*(np.zeros(size, part.dtype) for part in of_tile))
        x, y = one.tile.box[:2]
        core = one.tile.core
        inside: Box = (core[0] - x, core[1] - y, core[2], core[3])
        for whole, part in zip(maps, of_tile, strict=True):
            whole[slices(core)] = part[slices(inside)]
    assert maps is not None, "an image has a tile"
    return maps


def _size(tile: Tile) -> tuple[int, int]:
    return tile.box[3], tile.box[2]
