"""Masks in a box, row by row, as CVAT writes them; unpacked only where the size of their image is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from segray.models.rle import MAX_COUNTS, Runs

_LONGEST = 2 * MAX_COUNTS
"""Characters of the run lengths of one mask; `cvat.MAX_TAG` is twice as many."""


class RowMask(TypedDict):
    """A mask as run lengths in a box.

    Attributes:
        size: height and width of the image, as the file says.
        box: x, y, width and height in pixels.
        rows: run lengths with commas between them, row by row, background first.
    """

    size: list[int]
    box: list[int]
    rows: str


def is_row_mask(segmentation: object) -> bool:
    """Whether a segmentation is such a mask."""
    return isinstance(segmentation, Mapping) and "rows" in segmentation


def checked_rows(mask: Mapping[str, Any], height: int, width: int) -> Runs:
    """The runs of a mask: background, mask, background, ...

    Args:
        mask: as the file has it.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: not a mask of an image of that size.
    """
    box, rows = mask.get("box"), mask["rows"]
    if mask.get("size") != [height, width] or not isinstance(rows, str):
        raise ValueError(f"not a mask of an image of {width}x{height} pixels")
    if len(rows) > _LONGEST:
        raise ValueError(f"run lengths of {len(rows)} characters (allowed: at most {_LONGEST})")
    if not isinstance(box, list) or len(box) != 4 or any(type(n) is not int for n in box):
        raise ValueError("a mask without a box")
    x, y, columns, lines = box
    if not (x >= 0 and y >= 0 and 0 < columns <= width - x and 0 < lines <= height - y):
        raise ValueError("a mask outside of its image")
    runs = [int(run) for run in rows.split(",")]
    if not all(0 <= run <= columns * lines for run in runs):
        raise ValueError(f"run lengths that are not those of a mask of {columns}x{lines}")
    if sum(runs) != columns * lines:
        raise ValueError(f"run lengths of {sum(runs)} pixels in a mask of {columns}x{lines}")
    return np.array(runs, np.int64)


def row_mask_pixels(mask: Mapping[str, Any], height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [height, width] in Fortran order, 1 inside; see `checked_rows`."""
    runs = checked_rows(mask, height, width)
    x, y, columns, lines = mask["box"]
    values = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[y : y + lines, x : x + columns] = values.reshape(lines, columns)
    return whole
