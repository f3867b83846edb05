"""Overlapping tiles of an image that is far larger than a model's input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from segray.models.masks import Box, Segment

Range = tuple[int, int]


def begins(length: int, side: int, step: int, stride: int = 1) -> list[int]:
    """Where tiles of a side begin that cover a length, `step` apart.

    Args:
        length: in pixels.
        side: of a tile; one tile is enough if it is not smaller than the length.
        step: at most the side.
        stride: all begin at multiples of it. If it is 1 the last tile ends with the length, else up to
            `stride` - 1 before, and has to be longer.
    """
    last = max(0, length - side) // stride * stride
    return [*range(0, last, step), last]


@dataclass(frozen=True)
class Tile:
    """A part of an image that a model sees at once, and its own part of that.

    Attributes:
        row: of the tile, from the top.
        column: of the tile, from the left.
        box: (x, y, w, h) in the image.
        core: (x, y, w, h) in the image; those of all tiles cover each pixel once.
    """

    row: int
    column: int
    box: Box
    core: Box

    @property
    def inside(self) -> tuple[slice, slice]:
        """The rows and columns of the image that it is."""
        return slices(self.box)


@dataclass(frozen=True)
class Tiling:
    """How large images are cut.

    Attributes:
        side: of a tile in pixels; an image of at most this size is one tile.
        overlap: of neighbours, as a part of the side.
    """

    side: int
    overlap: float

    def divides(self, height: int, width: int) -> bool:
        """Whether an image of this size has more than one tile."""
        return max(height, width) > self.side

    def tiles(self, height: int, width: int) -> list[Tile]:
        """The tiles of an image, row by row."""
        rows, columns = self._spans(height), self._spans(width)
        return [
            Tile(i, j, _box(columns[j][0], rows[i][0]), _box(columns[j][1], rows[i][1]))
            for i in range(len(rows))
            for j in range(len(columns))
        ]

    def _spans(self, length: int) -> list[tuple[Range, Range]]:
        """Begin and end of each tile along a side of the image, and of its core."""
        step = max(1, self.side - max(1, round(self.overlap * self.side)))
        starts = begins(length, self.side, step)
        ends = [min(length, start + self.side) for start in starts]
        # Halfway between where the next one begins and this one ends.
        middles = [(end + start) // 2 for end, start in zip(ends, starts[1:], strict=False)]
        cores = zip([0, *middles], [*middles, length], strict=True)
        return list(zip(zip(starts, ends, strict=True), cores, strict=True))


def _box(columns: Range, rows: Range) -> Box:
    return columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0]


def slices(box: Box) -> tuple[slice, slice]:
    """Rows and columns of a box."""
    x, y, w, h = box
    return slice(y, y + h), slice(x, x + w)


def common(first: Box, second: Box) -> Box:
    """What two boxes have in common; width or height are 0 or less if that is nothing."""
    x, y = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = (min(first[i] + first[i + 2], second[i] + second[i + 2]) for i in (0, 1))
    return x, y, right - x, bottom - y


def clipped(segments: Sequence[Segment], area: Box, origin: Box) -> Iterator[tuple[int, Segment]]:
    """The parts of segments inside an area, with the segments' numbers; their boxes begin at `origin`.

    A part's box need not be tight.
    """
    for k, segment in enumerate(segments):
        x, y, w, h = box = common(segment.box, area)
        if w < 1 or h < 1:
            continue
        rows, columns = slices((x - segment.box[0], y - segment.box[1], w, h))
        mask = segment.mask[rows, columns]
        if pixels := int(mask.sum()):
            place = (box[0] - origin[0], box[1] - origin[1], w, h)
            yield k, replace(segment, box=place, mask=mask, area=pixels)
