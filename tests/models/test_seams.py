"""Tiles: joined segments are those of one pass, with a segmenter that makes no mistakes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segray.models.masks import Segment, segment_from_mask
from segray.models.seams import Joining, Scored, TiledLabels, TiledMasks
from segray.models.tiling import Tile, Tiling, begins


class Exact:
    """Connected pixels of one colour are a segment; 0 is background."""

    def __init__(self, connectivity: int = 1) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self._structure = ndimage.generate_binary_structure(2, connectivity)

    def generate(
        self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[list[Segment]]:
        self.shapes += [image.shape[:2] for image in images]
        return [list(self.segments(image[..., 0])) for image in images]

    def segments(self, colours: NDArray[np.uint8]) -> Any:
        for colour in np.unique(colours[colours > 0]):
            labels, count = ndimage.label(colours == colour, self._structure)
            for i in range(1, count + 1):
                yield segment_from_mask(labels == i, predicted_iou=float(colour) / 255)


class ExactLabels(Exact):
    """The same segments; a colour is a class, and its score grows with the colour."""

    def label(
        self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[Scored]:
        found = self.generate(images, sizes)
        colours = [[round(255 * segment.predicted_iou) for segment in segments] for segments in found]
        rows = [np.eye(5, dtype=np.float32)[row] * (np.array(row)[:, None] / 8 + 0.25) for row in colours]
        return [
            (segments, row.reshape(-1, 5).astype(np.float32))
            for segments, row in zip(found, rows, strict=True)
        ]


def masks_of(segments: Sequence[Segment]) -> set[tuple[Any, ...]]:
    found = {(s.box, s.mask.tobytes(), s.area, s.predicted_iou) for s in segments}
    assert len(found) == len(segments), "a segment twice"
    return found


def rows_of(segments: Sequence[Segment], scores: NDArray[np.float32]) -> dict[tuple[Any, ...], Any]:
    assert len(scores) == len(segments)
    assert scores.dtype == np.float32
    rows = {(s.box, s.mask.tobytes(), s.area): tuple(row) for s, row in zip(segments, scores, strict=True)}
    assert len(rows) == len(segments), "a segment twice"
    return {key: tuple(np.round(row, 5).tolist()) for key, row in rows.items()}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    side=st.integers(5, 30),
    overlap=st.floats(0.01, 0.5),
    colours=st.integers(1, 3),
    scale=st.integers(1, 5),
    connectivity=st.integers(1, 2),
)
def test_joined_segments_are_those_of_one_pass(
    seed: int,
    height: int,
    width: int,
    side: int,
    overlap: float,
    colours: int,
    scale: int,
    connectivity: int,
) -> None:
    """From noise of single pixels, whose segments are snakes through many tiles, to blobs."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, colours + 1, (-(-height // scale), -(-width // scale)), np.uint8)
    image = small.repeat(scale, 0).repeat(scale, 1)[:height, :width, None].repeat(3, 2)
    source, exact = Exact(connectivity), ExactLabels(connectivity)
    (once,) = source.generate([image])
    source.shapes.clear()
    (tiled,) = TiledMasks(source, Tiling(side, overlap)).generate([image])
    assert masks_of(tiled) == masks_of(once)
    (labelled, scores), (expected, expected_scores) = (
        source.label([image])[0] for source in (TiledLabels(exact, Tiling(side, overlap)), exact)
    )
    assert rows_of(labelled, scores) == rows_of(expected, expected_scores)
    assert max(max(shape) for shape in source.shapes) <= max(side, 1) or max(height, width) <= side


def test_an_object_in_one_piece_on_one_side_and_two_on_the_other() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[4:6, 2:28], image[14:16, 2:28], image[4:16, 2:4] = 1, 1, 1
    (segments,) = TiledMasks(Exact(), Tiling(20, 0.25)).generate([image])
    assert len(segments) == 1
    assert np.array_equal(segments[0].mask, image[4:16, 2:28, 0].astype(bool))


class Unlike:
    """Everything is one segment, whose scores the tile's first pixel says."""

    def label(
        self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[Scored]:
        rows = [np.array([[0, image[0, 0, 0] / 100, 0.5]], np.float32) for image in images]
        return [
            ([segment_from_mask(np.ones(image.shape[:2], bool))], row)
            for image, row in zip(images, rows, strict=True)
        ]


@pytest.mark.parametrize(("last", "found"), [(100, 1), (20, 2)])
def test_labels_are_joined_by_class_and_each_pixel_has_its_own_tile(last: int, found: int) -> None:
    image = np.full((10, 20, 3), 60, np.uint8)
    image[0, 8] = last
    ((segments, scores),) = TiledLabels(Unlike(), Tiling(12, 1 / 3)).label([image])
    assert [segment.area for segment in segments] == ([200] if found == 1 else [100, 100])
    if found == 1:
        np.testing.assert_allclose(scores, [[0, (0.6 + 1.0) / 2, 0.5]], rtol=1e-6)
    else:
        assert [segment.box for segment in segments] == [(0, 0, 10, 10), (10, 0, 10, 10)]
        np.testing.assert_allclose(scores, [[0, 0.6, 0.5], [0, 0.2, 0.5]], rtol=1e-6)


class Overlapping:
    """Two segments that share their left half in the left tile, and are one in the right tile."""

    def label(
        self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[Scored]:
        return [self._left() if image[0, 0, 0] else self._right() for image in images]

    def _left(self) -> Scored:
        masks = np.zeros((2, 10, 12), bool)
        masks[:, :, :6] = masks[0, :4] = masks[1, 6:] = True
        return [segment_from_mask(mask) for mask in masks], np.array([[0, 0.9], [0, 0.5]], np.float32)

    def _right(self) -> Scored:
        mask = np.ones((10, 12), bool)
        mask[4:6, :6] = False
        return [segment_from_mask(mask)], np.array([[0, 0.7]], np.float32)


def test_the_score_of_a_label_is_a_mean_where_segments_of_a_tile_overlap() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[0, 0] = 1
    (((segment,), scores),) = TiledLabels(Overlapping(), Tiling(12, 1 / 3)).label([image])
    assert (segment.box, segment.area) == ((0, 0, 20, 10), 200 - 2 * 8)
    np.testing.assert_allclose(scores, [[0, 0.7]], rtol=1e-6)


def tile(column: int) -> Tile:
    box = (8 * column, 0, 12, 10)
    return Tile(0, column, box, box)


def block(x: int, y: int, width: int, height: int, *, score: float = 0.5) -> Segment:
    mask = np.zeros((10, 12), bool)
    mask[y : y + height, x : x + width] = True
    return segment_from_mask(mask, score)


def test_a_wheel_stays_apart_from_its_car() -> None:
    """The overlap shows the wheel and of the car not much more; each finds its own other half."""
    joining = Joining()
    joining.add(tile(0), [block(0, 0, 12, 10), block(7, 4, 5, 6)])
    joining.add(tile(1), [block(0, 4, 3, 6), block(0, 0, 9, 10)])
    assert [s.area for s in joining.segments()] == [170, 30]


def test_equal_parts_of_nested_segments_find_those_of_their_size() -> None:
    joining = Joining()
    joining.add(tile(0), [block(8, 0, 4, 10), block(0, 0, 12, 10)])
    joining.add(tile(1), [block(0, 0, 12, 10), block(0, 0, 5, 10)])
    assert sorted(s.area for s in joining.segments()) == [50, 200]


def test_masks_that_differ_a_little_are_joined_and_others_are_not() -> None:
    joining = Joining()
    joining.add(tile(0), [block(4, 0, 8, 4, score=0.9), block(4, 6, 8, 4)])
    joining.add(tile(1), [block(0, 1, 8, 4, score=0.4), block(0, 8, 3, 2)])
    found = joining.segments()
    assert [(s.box, s.area) for s in found[:1]] == [((4, 0, 12, 5), 52)]
    assert len(found) == 3
    assert found[0].predicted_iou == 0.9
    assert found[0].crop_box == (0, 0, 12, 10)


def test_small_images_are_not_cut_and_order_is_kept() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 2, (*size, 1), np.uint8).repeat(3, 2) for size in ((9, 9), (30, 8), (4, 10))]
    source = Exact()
    found = TiledMasks(source, Tiling(10, 0.2)).generate(images)
    assert source.shapes == [(9, 9), (4, 10), (10, 8), (10, 8), (10, 8), (10, 8)]
    assert [masks_of(s) for s in found] == [masks_of(s) for s in Exact().generate(images)]


@pytest.mark.parametrize("length", [1, 9, 10, 11, 17, 100])
@pytest.mark.parametrize("overlap", [0.01, 0.25, 0.5])
def test_tiles_cover_and_their_cores_divide_the_image(length: int, overlap: float) -> None:
    tiles = Tiling(10, overlap).tiles(length, 23)
    covered, divided = (np.zeros((length, 23), int) for _ in range(2))
    for one in tiles:
        covered[one.inside] += 1
        x, y, w, h = one.core
        divided[y : y + h, x : x + w] += 1
        assert one.box[2] <= 10
        assert one.box[3] == min(10, length)
    assert (divided == 1).all()
    assert covered.min() == 1
    assert (len(tiles) == 1) == (not Tiling(10, overlap).divides(length, 23))


def test_begins_at_multiples_of_a_stride() -> None:
    assert begins(100, 64, 32, 32) == [0, 32]
    assert begins(100, 64, 32) == [0, 32, 36]
    assert begins(50, 64, 32) == [0]


@pytest.mark.parametrize("side", [512, 1024])
def test_memory_beside_the_result_is_that_of_a_few_tiles(side: int) -> None:
    """Twelve objects per tile of 256 px, of which four times as large an image has four times as many."""
    image = np.zeros((side, side, 3), np.uint8)
    for y in range(8, side, 64):
        for x in range(8, side, 86):
            image[y : y + 40, x : x + 60] = 1
    tiled = TiledMasks(Exact(), Tiling(256, 0.25))
    tracemalloc.start()
    (segments,) = tiled.generate([image])
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(s.mask.size for s in segments) <= now
    assert peak - now < 8 * 4 * 256 * 256 * 3
