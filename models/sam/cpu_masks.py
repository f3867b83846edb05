"""From SAM's low-resolution logits to segments on a CPU: full-size pixels only where a decision needs them.

The decisions of segment_anything 1.0 (Apache-2.0; `automatic_mask_generator.py`), taken mask by mask in the
order of non-maximum suppression, best predicted IoU first. Upsampling to the model's input, cutting and
resizing are linear and separable, so that a mask at full size is R_y L R_x^T with two small matrices. A
mask's box needs only the pixels near its four sides; one that a kept mask suppresses needs no more. Of the
others the box that logits above the lower stability threshold reach is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.models.masks import BoolMask, Segment
from segray.models.sam.geometry import Frame, Window, resampling
from segray.models.sam.postprocess import EDGE_PIXELS, Candidates, Thresholds

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]
Box = tuple[int, int, int, int]
_BLOCK = 64
"""Rows of pixels that are resampled at a time."""


@dataclass(frozen=True)
class _Axis:
    """One side of the picture.

    Attributes:
        weights: float32 [pixels, samples], the resampling.
        first, last: [samples], first and last pixel that a sample reaches; last < first for none.
        tap_first, tap_last: [pixels], first and last sample of a pixel.
        band: pixels from where a mask may begin to where it nearly always has.
    """

    weights: Tensor
    first: Ints
    last: Ints
    tap_first: Ints
    tap_last: Ints
    band: int

    def reach(self, flags: NDArray[np.bool_]) -> tuple[int, int]:
        """First and last pixel that a flagged sample reaches; last < first for none."""
        index = np.flatnonzero(flags & (self.last >= 0))
        return (int(self.first[index[0]]), int(self.last[index[-1]])) if index.size else (0, -1)

    def sides(self, first: int, last: int) -> tuple[slice, slice]:
        """The bands of pixels at both ends of first to last."""
        after = last + 1
        return slice(first, min(first + self.band, after)), slice(max(after - self.band, first), after)

    def of(self, pixels: Sequence[slice]) -> tuple[Tensor, slice]:
        """The weights of some pixels, in order, for the samples that these see."""
        taps = slice(int(self.tap_first[pixels[0].start]), int(self.tap_last[pixels[-1].stop - 1]) + 1)
        weights = [self.weights[part, taps] for part in pixels]
        return weights[0] if len(weights) == 1 else torch.cat(weights), taps


@lru_cache(maxsize=64)
def _axis(samples: int, side: int, inside: int, pixels: int) -> _Axis:
    """`samples` logits to `side` pixels of the model's input, of which `inside` are resized to `pixels`."""
    weights = resampling(samples, side, inside, pixels)
    seen = (weights != 0).numpy()
    band = 2 * math.ceil(pixels * side / (inside * samples)) + 1
    return _Axis(weights, *_ends(seen.T), *_ends(seen), band)


def _ends(flags: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """First and last true column of each row; (columns, -1) where there is none."""
    found, length = flags.any(1), flags.shape[1]
    first = np.where(found, flags.argmax(1), length)
    return first, np.where(found, length - 1 - flags[:, ::-1].argmax(1), -1)


def lazy_segments(
    found: Candidates, f: Frame, window: Window, size: tuple[int, ...], limits: Thresholds
) -> Iterator[Segment]:
    """The stable and unique masks of one window of a picture of `size` (height, width), best first.

    Args:
        found: masks above the predicted-IoU threshold, not yet measured, on the CPU.
        f: the window's frame.
        window: (x0, y0, x1, y1) in the picture.
        size: of the picture.
        limits: what a mask must keep to.
    """
    samples = found.logits.shape[1:]
    y_axis = _axis(samples[0], f.side, f.input_height, f.height)
    x_axis = _axis(samples[1], f.side, f.input_width, f.width)
    rows, columns = (found.logits.amax(dim).numpy() for dim in (2, 1))
    iou, points = found.iou.numpy(), found.points.numpy()
    low = limits.cut - limits.stability_offset
    kept = np.zeros((len(iou), 4), np.float32)
    count = 0
    crop_box = (window[0], window[1], window[2] - window[0], window[3] - window[1])

    def is_out(box: Box) -> bool:
        return _at_inner_edge(box, window, size) or _suppressed(box, kept[:count], limits.box_nms)

    for k in np.argsort(-iou, kind="stable"):
        logits = found.logits[k]
        near = _box(logits, rows[k] > limits.cut, columns[k] > limits.cut, y_axis, x_axis, limits.cut)
        if near is not None and is_out(near):
            continue
        top, bottom = y_axis.reach(rows[k] > low)
        left, right = x_axis.reach(columns[k] > low)
        if bottom < top or right < left:
            continue
        patch = _pixels(logits, y_axis, x_axis, [slice(top, bottom + 1)], [slice(left, right + 1)])
        stability = _stability(patch, limits)
        mask = patch > limits.cut
        if (limits.stability > 0 and not stability >= np.float32(limits.stability)) or not mask.any():
            continue
        (x0, y0, x1, y1), mask = _trimmed(mask)
        box = (left + x0, top + y0, left + x1, top + y1)
        if near is None and is_out(box):
            continue
        kept[count] = box
        count += 1
        place = (box[0] + window[0], box[1] + window[1], mask.shape[1], mask.shape[0])
        point = (float(points[k][0]) + window[0], float(points[k][1]) + window[1])
        yield Segment(place, mask, int(mask.sum()), float(iou[k]), float(stability), point, crop_box)


def _box(
    logits: Tensor,
    rows: NDArray[np.bool_],
    columns: NDArray[np.bool_],
    y_axis: _Axis,
    x_axis: _Axis,
    cut: float,
) -> Box | None:
    """Inclusive (x0, y0, x1, y1) of the mask, from the pixels near the sides of what it can reach at most.

    None where it ends elsewhere, or is empty.
    """
    top, bottom = y_axis.reach(rows)
    left, right = x_axis.reach(columns)
    if bottom < top or right < left:
        return None
    tall, wide = [slice(top, bottom + 1)], [slice(left, right + 1)]
    x_sides, y_sides = x_axis.sides(left, right), y_axis.sides(top, bottom)
    x = _extent(np.any(_pixels(logits, y_axis, x_axis, tall, x_sides) > cut, axis=0), *x_sides)
    y = _extent(np.any(_pixels(logits, y_axis, x_axis, y_sides, wide) > cut, axis=1), *y_sides)
    return None if x is None or y is None else (x[0], y[0], x[1], y[1])


def _extent(flags: NDArray[np.bool_], near: slice, far: slice) -> tuple[int, int] | None:
    """The first flagged pixel of the near band, the last one of the far band; None where one has none.

    `flags` are those of the near band's pixels, then those of the far band's.
    """
    split = near.stop - near.start
    first, last = flags[:split].argmax(), flags[split:][::-1].argmax()
    if not (flags[first] and flags[-1 - last]):
        return None
    return near.start + int(first), far.stop - 1 - int(last)


def _pixels(
    logits: Tensor, y_axis: _Axis, x_axis: _Axis, rows: Sequence[slice], columns: Sequence[slice]
) -> Floats:
    """Full-size logits of these rows and columns of pixels."""
    (y_weights, high), (x_weights, wide) = y_axis.of(rows), x_axis.of(columns)
    seen = logits[high, wide]
    # The smaller product first.
    if len(y_weights) < len(x_weights):
        return ((y_weights @ seen) @ x_weights.T).numpy()
    across = seen @ x_weights.T
    if len(y_weights) <= _BLOCK:
        return (y_weights @ across).numpy()
    # Each row of pixels sees three samples: a block of rows needs few of them.
    blocks = (y_axis.of([block]) for block in _blocks(rows))
    return torch.cat(
        [weights @ across[taps.start - high.start : taps.stop - high.start] for weights, taps in blocks]
    ).numpy()


def _blocks(rows: Sequence[slice]) -> Iterator[slice]:
    """The rows of pixels, in order, in blocks."""
    for part in rows:
        for start in range(part.start, part.stop, _BLOCK):
            yield slice(start, min(start + _BLOCK, part.stop))


def _stability(patch: Floats, limits: Thresholds) -> np.float32:
    """Pixels above cut + offset over those above cut - offset; not a number for none."""
    high = np.count_nonzero(patch > limits.cut + limits.stability_offset)
    low = np.count_nonzero(patch > limits.cut - limits.stability_offset)
    return np.float32(high) / np.float32(low) if low else np.float32(np.nan)


def _trimmed(mask: BoolMask) -> tuple[Box, BoolMask]:
    """Inclusive (x0, y0, x1, y1) of what is true, and a copy of it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    return (x0, y0, x1, y1), mask[y0 : y1 + 1, x0 : x1 + 1].copy()


def _at_inner_edge(box: Box, window: Window, size: tuple[int, ...]) -> bool:
    """Within 20 pixels of a side of the window that is not a side of the picture."""
    corner, sides = window[:2] * 2, (0, 0, size[1], size[0])
    for value, shift, edge, side in zip(box, corner, window, sides, strict=True):
        place = value + shift
        if abs(place - edge) <= EDGE_PIXELS < abs(place - side):
            return True
    return False


def _suppressed(box: Box, kept: Floats, threshold: float) -> bool:
    """As torchvision's suppression: IoU in float32, of inclusive corners without the last pixel."""
    if not len(kept):
        return False
    x0, y0, x1, y1 = box
    width = np.minimum(x1, kept[:, 2]) - np.maximum(x0, kept[:, 0])
    height = np.minimum(y1, kept[:, 3]) - np.maximum(y0, kept[:, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (kept[:, 2] - kept[:, 0]) * (kept[:, 3] - kept[:, 1])
    # Two equal boxes of one pixel have no area; not a number suppresses nothing, there as here.
    with np.errstate(invalid="ignore"):
        iou = shared / (np.float32((x1 - x0) * (y1 - y0)) + areas - shared)
    return bool((iou.astype(np.float64) > threshold).any())
