"""Features tile by tile: each pixel counts once, with the features of its own tile."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from segray.models.clip.text import ZeroShotClassifier
from segray.models.clip.tiled import TileFeatures, label_tiles, pool_tiles
from segray.models.clip.zero_shot import dense_labels, pool_segments
from segray.models.masks import segment_from_mask
from segray.models.tiling import Tiling

SIZE = (37, 50)
TILES = Tiling(20, 0.3).tiles(*SIZE)


def features() -> list[TileFeatures]:
    grids = torch.randn(len(TILES), 3, 4, 6, generator=torch.Generator().manual_seed(0))
    return [TileFeatures(*pair) for pair in zip(TILES, grids, strict=True)]


def pixels(tiles: list[TileFeatures]) -> torch.Tensor:
    """The upsampled features of each pixel, one pixel after the other, [H, W, D]."""
    found = torch.zeros(*SIZE, 6)
    for one in tiles:
        (x0, y0, w, h), (x, y, cw, ch) = one.tile.box, one.tile.core
        up = F.interpolate(one.grid.permute(2, 0, 1)[None], (h, w), mode="bilinear", align_corners=False)[0]
        for row in range(y, y + ch):
            for column in range(x, x + cw):
                found[row, column] = up[:, row - y0, column - x0]
    return found


def masks() -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    everywhere, one_tile = np.ones(SIZE, bool), np.zeros(SIZE, bool)
    one_tile[2:5, 3:6] = True
    return [everywhere, one_tile, rng.random(SIZE) < 0.2]


def test_a_segment_has_the_mean_of_its_pixels() -> None:
    found = pool_tiles(features(), [segment_from_mask(mask) for mask in masks()])
    whole = pixels(features())
    expected = torch.stack([whole[torch.from_numpy(mask)].mean(0) for mask in masks()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_pixels_have_the_class_of_their_own_tile() -> None:
    embeddings = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    classifier = ZeroShotClassifier(embeddings, torch.arange(4), 20.0)
    found = label_tiles(features(), classifier, SIZE, 0.0)
    assert (found.label != found.best).any()
    for one in features():
        (x0, y0, w, h), (x, y, cw, ch) = one.tile.box, one.tile.core
        own = dense_labels(one.grid, classifier, h, w, 0.0)
        for whole, part in zip(found, own, strict=True):
            inside = part[y - y0 : y - y0 + ch, x - x0 : x - x0 + cw]
            assert np.array_equal(whole[y : y + ch, x : x + cw], inside)


def test_each_tile_follows_the_edges_of_its_own_part() -> None:
    embeddings = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    classifier = ZeroShotClassifier(embeddings, torch.arange(4), 20.0)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    found = label_tiles(features(), classifier, SIZE, 0.0, image, 2)
    for one in features():
        (x0, y0, w, h), (x, y, cw, ch) = one.tile.box, one.tile.core
        own = dense_labels(one.grid, classifier, h, w, 0.0, image[y0 : y0 + h, x0 : x0 + w], 2)
        inside = own.label[y - y0 : y - y0 + ch, x - x0 : x - x0 + cw]
        assert np.array_equal(found.label[y : y + ch, x : x + cw], inside)
    assert (found.label != label_tiles(features(), classifier, SIZE, 0.0).label).any()


def test_a_small_copy_of_the_image_has_its_edges() -> None:
    """One tile alone: `image.reduce_jpeg` and tiles exclude each other."""
    (tile,) = Tiling(64, 0.3).tiles(*SIZE)
    embeddings = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    classifier = ZeroShotClassifier(embeddings, torch.arange(4), 20.0)
    small = np.random.default_rng(0).integers(0, 256, (19, 25, 3)).astype(np.uint8)
    grid = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    found = label_tiles([TileFeatures(tile, grid)], classifier, SIZE, 0.0, small, 2)
    own = dense_labels(grid, classifier, *SIZE, 0.0, small, 2)
    assert np.array_equal(found.label, own.label)


def test_one_tile_is_the_whole_image_to_the_bit() -> None:
    (tile,) = Tiling(64, 0.3).tiles(*SIZE)
    grid, segments = torch.randn(3, 4, 6), [segment_from_mask(mask) for mask in masks()]
    assert torch.equal(pool_tiles([TileFeatures(tile, grid)], segments), pool_segments(grid, segments, *SIZE))
