"""From a label map to single objects: connected pixels of a class, or the visible part of each segment."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segray.models.label_map import LabelMap
from segray.models.masks import BoolMask, Segment, segment_from_mask
from segray.pipelines.exporting.base import Sample
from segray.pipelines.label_set.schema import pixel_counts

MAX_OBJECTS = 1 << 16
"""Objects of one image; noise has any number of them."""

_EIGHT = np.ones((3, 3), bool)
_MAX_STEPS = 1 << 22


def objects(sample: Sample) -> list[tuple[int, Segment]]:
    """(class id, object) of an image: each pixel of a class is in exactly one; the background has none.

    Pixels that touch, also at a corner, are connected.

    Raises:
        ValueError: more than `MAX_OBJECTS`.
    """
    if sample.segments is None:
        visible = list(_connected(sample.label, sample.nothing))
    else:
        owner = _owners(sample)
        rest = np.where(owner == 0, sample.label, sample.label.dtype.type(0))
        visible = [*_visible(sample, owner), *_connected(rest, sample.nothing)]
    return _counted(visible)


def parts_of(segment: Segment) -> Iterator[BoolMask]:
    """The connected parts of an object, each bool [h, w] of the object's box."""
    numbered, count = ndimage.label(segment.mask, _EIGHT)
    yield from (numbered == number for number in range(1, count + 1))


def _counted(drawn: list[tuple[int, Segment]]) -> list[tuple[int, Segment]]:
    if len(drawn) > MAX_OBJECTS:
        raise ValueError(f"{len(drawn)} objects (allowed: at most {MAX_OBJECTS})")
    return drawn


def _connected(label: LabelMap, nothing: Collection[int]) -> Iterator[tuple[int, Segment]]:
    for class_id in np.flatnonzero(pixel_counts(label)).tolist():
        if class_id in nothing:
            continue
        numbered, count = ndimage.label(label == class_id, _EIGHT)
        if count > MAX_OBJECTS:
            raise ValueError(f"{count} objects of a class (allowed: at most {MAX_OBJECTS})")
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
            mask = numbered[rows, columns] == number
            height, width = mask.shape
            box = (columns.start, rows.start, width, height)
            yield class_id, Segment(box, mask, int(mask.sum()), 1.0, 1.0)


def _owners(sample: Sample) -> NDArray[np.int32]:
    """int32 [H, W], the number from 1 of the segment that each pixel shows; 0 for none."""
    owner = np.zeros(sample.label.shape, np.int32)
    for number, (class_id, segment) in enumerate(sample.segments or (), 1):
        if class_id in (0, sample.ignore_index):
            continue
        x, y, width, height = segment.box
        inside = np.s_[y : y + height, x : x + width]
        owner[inside][segment.mask & (sample.label[inside] == class_id)] = number
    return owner


def _visible(sample: Sample, owner: NDArray[np.int32]) -> Iterator[tuple[int, Segment]]:
    for number, (class_id, segment) in enumerate(sample.segments or (), 1):
        x, y, width, height = segment.box
        shown = owner[y : y + height, x : x + width] == number
        if shown.any():
            part = segment_from_mask(shown)
            left, top, width, height = part.box
            box = (x + left, y + top, width, height)
            yield class_id, Segment(box, part.mask, part.area, 1.0, 1.0)


def outline(mask: BoolMask) -> list[tuple[int, int]]:
    """The outer border of connected pixels, along their edges: corners (x, y), clockwise on the screen.

    Args:
        mask: bool [h, w]; its pixels are connected, also at corners.

    Raises:
        ValueError: the border is longer than an outline can reasonably be.
    """
    pixels = np.pad(mask, 1)
    y = int(pixels.any(1).argmax())
    x = int(pixels[y].argmax())
    start, heading, corners = (x, y), (1, 0), [(x, y)]
    for _ in range(_MAX_STEPS):
        x, y = x + heading[0], y + heading[1]
        turned = _turn(pixels, x, y, heading)
        if (x, y) == start and turned == (1, 0):
            return [(right - 1, down - 1) for right, down in corners]
        if turned != heading:
            corners.append((x, y))
            heading = turned
    raise ValueError(f"an outline of more than {_MAX_STEPS} pixel edges")


def _turn(pixels: BoolMask, x: int, y: int, heading: tuple[int, int]) -> tuple[int, int]:
    """The next heading at a corner, with the object on the right: left wherever a pixel is there."""
    dx, dy = heading
    if pixels[y + (dy - dx - 1) // 2, x + (dx + dy - 1) // 2]:
        return dy, -dx
    if pixels[y + (dy + dx - 1) // 2, x + (dx - dy - 1) // 2]:
        return heading
    return -dy, dx
