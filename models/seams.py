"""Segments that were found tile by tile, joined across the seams."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segray.models.annotators.protocols import MaskSource
from segray.models.masks import BoolMask, Box, Segment, pack, unpack
from segray.models.tiling import Tile, Tiling, clipped, common, slices

LEAST_IOU = 0.5
"""Of two parts of segments in the overlap of their tiles, to be parts of one segment."""
_TILES_AT_ONCE = 4


class TiledMasks:
    """A source of masks that sees large images tile by tile; its segments are as of the whole image.

    A model sees one tile at a time. Of the tiles before, segments are kept as bits.

    Args:
        source: of the masks of a tile.
        tiling: of the images; one that is a single tile goes to `source` as it is.
    """

    def __init__(self, source: MaskSource, tiling: Tiling) -> None:
        self._source, self._tiling = source, tiling

    def generate(
        self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[list[Segment]]:
        """See `MaskSource`. Images that are tiled must not be reduced copies."""
        shapes = [image.shape[:2] for image in images] if sizes is None else list(sizes)
        large = [i for i, shape in enumerate(shapes) if self._tiling.divides(shape[0], shape[1])]
        small = [i for i in range(len(images)) if i not in large]
        found: dict[int, list[Segment]] = {}
        if small:
            whole = self._source.generate([images[i] for i in small], [shapes[i] for i in small])
            found |= dict(zip(small, whole, strict=True))
        for i in large:
            found[i] = self._of_tiles(images[i])
        return [found[i] for i in range(len(images))]

    def _of_tiles(self, image: NDArray[np.uint8]) -> list[Segment]:
        tiles = self._tiling.tiles(image.shape[0], image.shape[1])
        joining = Joining()
        for start in range(0, len(tiles), _TILES_AT_ONCE):
            part = tiles[start : start + _TILES_AT_ONCE]
            crops = [np.ascontiguousarray(image[tile.inside]) for tile in part]
            for tile, segments in zip(part, self._source.generate(crops), strict=True):
                joining.add(tile, segments)
        return joining.segments()


@dataclass(frozen=True)
class _Part:
    """A connected part of a segment in an overlap: the segment's number and area, its own box and mask."""

    number: int
    of_area: int
    box: Box
    mask: BoolMask
    area: int


class Joining:
    """Segments of the tiles of one image, given tile by tile, row by row.

    Two segments of neighbouring tiles are one if a connected part of the one in their overlap is, by IoU, a
    connected part of the other. A part has at most one partner, the most similar one, so that segments inside
    others stay apart. With a perfect segmenter the parts are equal, and the result is that of one pass.
    """

    def __init__(self) -> None:
        self._stored: dict[tuple[int, int], tuple[Tile, int, bytes]] = {}
        self._parents: list[int] = []

    def add(self, tile: Tile, segments: Sequence[Segment]) -> None:
        """The segments of the next tile, whose boxes begin at the tile."""
        first = len(self._parents)
        self._parents += range(first, first + len(segments))
        placed = [_moved(segment, tile.box) for segment in segments]
        for neighbour in ((tile.row, tile.column - 1), (tile.row - 1, tile.column)):
            if neighbour in self._stored:
                other, other_first, packed = self._stored[neighbour]
                overlap = common(tile.box, other.box)
                theirs = _parts(unpack(packed), other_first, overlap)
                for a, b in _partners(theirs, _parts(placed, first, overlap)):
                    self._join(a, b)
        self._stored[tile.row, tile.column] = (tile, first, pack(placed))

    def segments(self) -> list[Segment]:
        """All of them, joined, in the order in which the first piece of each was given."""
        groups: dict[int, list[Segment]] = defaultdict(list)
        for number, segment in enumerate(self._all()):
            groups[self._root(number)].append(segment)
        return [_union(groups[root]) for root in sorted(groups)]

    def _all(self) -> Iterator[Segment]:
        return chain.from_iterable(unpack(packed) for _, _, packed in self._stored.values())

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def _join(self, first: int, second: int) -> None:
        low, high = sorted((self._root(first), self._root(second)))
        self._parents[high] = low


def _moved(segment: Segment, tile: Box) -> Segment:
    (x, y, w, h), (left, top) = segment.box, tile[:2]
    point = (segment.point[0] + left, segment.point[1] + top)
    crop = segment.crop_box
    crop = (crop[0] + left, crop[1] + top, crop[2], crop[3]) if crop[2] else tile
    return replace(segment, box=(x + left, y + top, w, h), point=point, crop_box=crop)


def _parts(segments: Sequence[Segment], first: int, overlap: Box) -> list[_Part]:
    """The connected parts of segments in an overlap, whose boxes begin at it."""
    parts = []
    for k, part in clipped(segments, overlap, overlap):
        labels, _ = ndimage.label(part.mask)
        for i, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            mask = labels[rows, columns] == i
            box = (part.box[0] + columns.start, part.box[1] + rows.start, mask.shape[1], mask.shape[0])
            parts.append(_Part(first + k, segments[k].area, box, mask, int(mask.sum())))
    return parts


def _partners(first: Sequence[_Part], second: Sequence[_Part]) -> Iterator[tuple[int, int]]:
    """Numbers of segments that have a part in common, the most similar parts first."""
    boxes = np.array([part.box for part in second]).reshape(-1, 4)
    # Parts of nested segments may be equal: those of like size belong together.
    pairs = [
        (-iou, abs(log(part.of_area / second[j].of_area)), i, j)
        for i, part in enumerate(first)
        for j in _touching(part.box, boxes).tolist()
        if (iou := _iou(part, second[j])) >= LEAST_IOU
    ]
    taken: tuple[set[int], set[int]] = (set(), set())
    for _, _, i, j in sorted(pairs):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            yield first[i].number, second[j].number


def _touching(box: Box, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    x, y, w, h = box
    inside_x = (boxes[:, 0] < x + w) & (boxes[:, 0] + boxes[:, 2] > x)
    return np.flatnonzero(inside_x & (boxes[:, 1] < y + h) & (boxes[:, 1] + boxes[:, 3] > y))


def _iou(first: _Part, second: _Part) -> float:
    small, large = sorted((first.area, second.area))
    if small < LEAST_IOU * large:
        return 0.0
    x, y, w, h = common(first.box, second.box)
    masks = (part.mask[slices((x - part.box[0], y - part.box[1], w, h))] for part in (first, second))
    both = int(np.logical_and(*masks).sum())
    return both / (first.area + second.area - both)


def _union(pieces: Sequence[Segment]) -> Segment:
    """One segment of several, with the scores and the point of the largest."""
    if len(pieces) == 1:
        return pieces[0]
    left, top = (min(piece.box[i] for piece in pieces) for i in (0, 1))
    right, bottom = (max(piece.box[i] + piece.box[i + 2] for piece in pieces) for i in (0, 1))
    mask = np.zeros((bottom - top, right - left), bool)
    for piece in pieces:
        x, y, w, h = piece.box
        mask[slices((x - left, y - top, w, h))] |= piece.mask
    largest = max(pieces, key=lambda piece: piece.area)
    box = (left, top, right - left, bottom - top)
    return replace(largest, box=box, mask=mask, area=int(mask.sum()))
