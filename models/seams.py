"""Segments that were found tile by tile, joined across the seams."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segray.models.annotators.protocols import Labeller, MaskSource
from segray.models.masks import BoolMask, Box, Segment, pack, unpack
from segray.models.tiling import Tile, Tiling, clipped, common, slices

LEAST_IOU = 0.5
"""Of two parts of segments in the overlap of their tiles, to be parts of one segment."""
_TILES_AT_ONCE = 4
_ORIGIN: Box = (0, 0, 0, 0)

Rgb = NDArray[np.uint8]
Scored = tuple[list[Segment], NDArray[np.float32]]
Found = TypeVar("Found")


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
        self, images: Sequence[Rgb], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[list[Segment]]:
        """See `MaskSource`. Images that are tiled must not be reduced copies."""
        return _by_size(self._tiling, images, sizes, self._source.generate, self._of_tiles)

    def _of_tiles(self, image: Rgb) -> list[Segment]:
        joining = Joining()
        for tile, segments in _tile_by_tile(self._tiling, image, self._source.generate):
            joining.add(tile, segments)
        return joining.segments()


class TiledLabels:
    """A labeller that sees large images tile by tile; its segments and scores are as of the whole image.

    Segments of neighbouring tiles are joined if they have the same best class. A pixel counts where it is in
    the core of its tile: segments that share no pixel of a tile share none of the image. The scores of a
    segment are the mean over its pixels, each with those of its tile.

    Args:
        labeller: of a tile.
        tiling: see `TiledMasks`.
    """

    def __init__(self, labeller: Labeller, tiling: Tiling) -> None:
        self._labeller, self._tiling = labeller, tiling

    def label(self, images: Sequence[Rgb], sizes: Sequence[tuple[int, ...]] | None = None) -> list[Scored]:
        """See `Labeller`. Images that are tiled must not be reduced copies."""
        return _by_size(self._tiling, images, sizes, self._labeller.label, self._of_tiles)

    def _of_tiles(self, image: Rgb) -> Scored:
        joinings: dict[int, Joining] = defaultdict(Joining)
        scores: dict[int, list[NDArray[np.float32]]] = defaultdict(list)
        n_classes = 0
        for tile, (segments, of_tile) in _tile_by_tile(self._tiling, image, self._labeller.label):
            n_classes, best = of_tile.shape[1], of_tile.argmax(1)
            for class_id in np.unique(best).tolist():
                chosen = np.flatnonzero(best == class_id).tolist()
                joinings[class_id].add(tile, [segments[k] for k in chosen])
                scores[class_id] += [of_tile[k] for k in chosen]
        joined = [
            whole
            for class_id in sorted(joinings)
            for group in joinings[class_id].groups()
            if (whole := _of_cores(group, scores[class_id]))
        ]
        rows = np.array([row for _, row in joined], np.float32).reshape(len(joined), n_classes)
        return [segment for segment, _ in joined], rows


def _by_size(
    tiling: Tiling,
    images: Sequence[Rgb],
    sizes: Sequence[tuple[int, ...]] | None,
    whole: Callable[[list[Rgb], list[tuple[int, ...]]], list[Found]],
    tiled: Callable[[Rgb], Found],
) -> list[Found]:
    """What is found in each image: in those of one tile by `whole`, all at once, in others by `tiled`."""
    shapes = [image.shape[:2] for image in images] if sizes is None else list(sizes)
    large = [i for i, shape in enumerate(shapes) if tiling.divides(shape[0], shape[1])]
    small = [i for i in range(len(images)) if i not in large]
    found: dict[int, Found] = {}
    if small:
        of_small = whole([images[i] for i in small], [shapes[i] for i in small])
        found |= dict(zip(small, of_small, strict=True))
    for i in large:
        found[i] = tiled(images[i])
    return [found[i] for i in range(len(images))]


def _tile_by_tile(
    tiling: Tiling, image: Rgb, model: Callable[[list[Rgb]], list[Found]]
) -> Iterator[tuple[Tile, Found]]:
    tiles = tiling.tiles(image.shape[0], image.shape[1])
    for start in range(0, len(tiles), _TILES_AT_ONCE):
        part = tiles[start : start + _TILES_AT_ONCE]
        yield from zip(part, model([np.ascontiguousarray(image[tile.inside]) for tile in part]), strict=True)


@dataclass(frozen=True)
class Piece:
    """A segment of one tile: which one it is, in the order in which they were given, and its tile."""

    number: int
    tile: Tile
    segment: Segment


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
        return [_union([piece.segment for piece in group]) for group in self.groups()]

    def groups(self) -> list[list[Piece]]:
        """The pieces of each of `segments`."""
        groups: dict[int, list[Piece]] = defaultdict(list)
        for tile, first, packed in self._stored.values():
            for number, segment in enumerate(unpack(packed), first):
                groups[self._root(number)].append(Piece(number, tile, segment))
        return [groups[root] for root in sorted(groups)]

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


def _of_cores(
    pieces: Sequence[Piece], scores: Sequence[NDArray[np.float32]]
) -> tuple[Segment, NDArray[np.float32]] | None:
    """A segment of what its pieces have in the cores of their tiles, and its scores; None if that is nothing.

    Args:
        pieces: of the segment.
        scores: float32 [C] by a piece's number.
    """
    inside = [
        (part, scores[piece.number])
        for piece in pieces
        for _, part in clipped([piece.segment], piece.tile.core, _ORIGIN)
    ]
    if not inside:
        return None
    areas, rows = [part.area for part, _ in inside], [row for _, row in inside]
    # Not by the area of all: parts of one tile may share pixels.
    mean = np.average(np.array(rows, np.float64), axis=0, weights=areas)
    return _tight(_union([part for part, _ in inside])), mean.astype(np.float32)


def _tight(segment: Segment) -> Segment:
    """The same segment, with the tight box of its mask."""
    rows, columns = (np.flatnonzero(segment.mask.any(axis)) for axis in (1, 0))
    mask = segment.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    place = (segment.box[0] + int(columns[0]), segment.box[1] + int(rows[0]))
    return replace(segment, box=(*place, mask.shape[1], mask.shape[0]), mask=mask)
