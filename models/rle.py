"""COCO's run lengths, checked before native code decodes them: they may come from anyone.

pycocotools reads past the end of a cut text, and writes past the end of a mask whose runs are too long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Runs = NDArray[np.int64]
"""Pixels of each run in column order: background, mask, background, ..."""

MAX_COUNTS = 1 << 22
"""Characters or numbers of one mask: far more than the outline of a segment needs."""

_BITS, _MORE, _SIGN = 5, 32, 16
_LONGEST = 7


def checked_runs(counts: bytes | str | Sequence[int], height: int, width: int) -> Runs:
    """The runs of a mask, plain or compressed, that cover an image exactly.

    Args:
        counts: a list of numbers, or COCO's compressed text.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: not run lengths, or not those of a height x width mask.
    """
    if len(counts) > MAX_COUNTS:
        raise ValueError(f"run lengths of {len(counts)} numbers (allowed: at most {MAX_COUNTS})")
    runs = _plain(counts) if isinstance(counts, list | tuple) else _compressed(counts)
    if (runs < 0).any() or (runs > height * width).any() or int(runs.sum()) != height * width:
        raise ValueError(f"run lengths that are not those of {height * width} pixels")
    return runs


def encode_crop(mask: NDArray[np.bool_], x: int, y: int, height: int, width: int) -> bytes:
    """COCO's compressed text of a mask that is false outside of a crop.

    Work is that of the crop's columns, and so are 5 bytes of memory for each of their pixels.

    Args:
        mask: bool [h, w], the crop, with at least one true pixel.
        x: of its first column in the image.
        y: of its first row in the image.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    from pycocotools import mask as coco

    rows, columns = mask.shape
    # With one column more, if there is one, the text ends with a run of background.
    strip = np.zeros((height, min(columns + 1, width - x)), np.uint8, order="F")
    strip[y : y + rows, :columns] = mask
    counts: bytes = coco.encode(strip)["counts"]
    before, after = x * height, (width - x - strip.shape[1]) * height
    # The first number is not what others are told from, and nothing is told from the last one.
    first = next(k for k, code in enumerate(counts) if not code - 48 & _MORE) + 1
    counts = _longer(counts[:first], before) + counts[first:]
    if not after:
        return counts
    last = len(counts) - 1
    while counts[last - 1] - 48 & _MORE:
        last -= 1
    return counts[:last] + _longer(counts[last:], after)


def _longer(text: bytes, pixels: int) -> bytes:
    """A number of a compressed text, with so much added."""
    codes = [code - 48 for code in text]
    value = sum((code & (_MORE - 1)) << (_BITS * k) for k, code in enumerate(codes)) + pixels
    value -= (1 << (_BITS * len(codes))) if codes[-1] & _SIGN else 0
    longer = bytearray()
    while True:
        code, value = value & (_MORE - 1), value >> _BITS
        more = value != (-1 if code & _SIGN else 0)
        longer.append(48 + code + _MORE * more)
        if not more:
            return bytes(longer)


def crop_runs(mask: NDArray[np.bool_], x: int, y: int, height: int, width: int) -> Runs:
    """The runs of a mask that is false outside of a crop; work and memory are those of the crop.

    Args:
        mask: bool [h, w], the crop.
        x: of its first column in the image.
        y: of its first row in the image.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    edges = np.diff(np.pad(mask.T, ((0, 0), (1, 1))).view(np.int8), axis=1)
    starts, ends = (
        (x + columns) * height + y + rows for columns, rows in (np.nonzero(edges == sign) for sign in (1, -1))
    )
    # A run that ends with its column may go on in the next one.
    apart = starts[1:] != ends[:-1]
    starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    turns = np.concatenate([[0], np.stack([starts, ends], 1).ravel(), [height * width]])
    runs = np.diff(turns)
    return runs if runs[-1] else runs[:-1]


def runs_crop(runs: Runs, height: int) -> tuple[NDArray[np.bool_], int, int]:
    """The inverse of `crop_runs`: the tight crop of a mask, bool [h, w], and x and y of its first pixel.

    Args:
        runs: as of `checked_runs`.
        height: of the image in pixels.

    Raises:
        ValueError: the mask has no true pixel.
    """
    turns = np.cumsum(runs)
    ends = turns[1::2]
    starts = turns[: 2 * len(ends) : 2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not starts.size:
        raise ValueError("a segment needs at least one pixel, this mask is empty")
    x, right = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    steps = np.zeros((right - x) * height + 1, np.int8)
    steps[starts - x * height] = 1
    steps[ends - x * height] -= 1
    columns = np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_).reshape(right - x, height)
    rows = np.flatnonzero(columns.any(0))
    y, bottom = int(rows[0]), int(rows[-1]) + 1
    return np.ascontiguousarray(columns[:, y:bottom].T), x, y


def area(runs: Runs) -> int:
    """Pixels of the mask."""
    return int(runs[1::2].sum())


def _plain(counts: Sequence[object]) -> Runs:
    if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts):
        raise ValueError("run lengths that are not whole numbers")
    return np.array(counts, np.int64)


def _compressed(counts: object) -> Runs:
    """Groups of 5 bits, the lowest first, with a sign; from the fourth on, the difference to two before."""
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    if not isinstance(data, bytes):
        raise ValueError("run lengths that are neither a list nor a text")
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if not codes.size or (codes < 0).any() or (codes >= 2 * _MORE).any() or codes[-1] & _MORE:
        raise ValueError("run lengths that are not COCO's compressed text")
    ends = np.flatnonzero(codes & _MORE == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise ValueError("run lengths that are not COCO's compressed text")
    shifts = _BITS * (np.arange(codes.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & (_MORE - 1)) << shifts, starts)
    values -= np.where(codes[ends] & _SIGN, 1 << (_BITS * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
