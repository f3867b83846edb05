"""Turn SAM's low-resolution logits into segments on a CPU, upsampling only the pixels that a decision needs.

The filters are those of segment_anything 1.0 (Apache-2.0; `automatic_mask_generator.py`). Masks are processed
in the order of non-maximum suppression, best predicted IoU first. Upsampling to the model's input, cropping
and resizing are linear and separable, so a mask at full size is R_y L R_x^T with two small matrices. A mask's
box depends only on the pixels near its four sides; if a kept mask suppresses that box, nothing more is
computed. For the other masks, the region that logits above the lower stability threshold reach is upsampled.
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
    """Resampling weights of one image axis.

    Attributes:
        weights: float32 [pixels, samples], the resampling matrix.
        first, last: [samples], first and last pixel that a sample contributes to; last < first if none.
        first_sample, last_sample: [pixels], first and last sample that contributes to a pixel.
        band: number of pixels at each end of a mask's largest possible extent that nearly always contain
            its actual end.
    """

    weights: Tensor
    first: Ints
    last: Ints
    first_sample: Ints
    last_sample: Ints
    band: int

    def reach(self, flags: NDArray[np.bool_]) -> tuple[int, int]:
        """First and last pixel that a flagged sample contributes to; last < first if none."""
        index = np.flatnonzero(flags & (self.last >= 0))
        return (int(self.first[index[0]]), int(self.last[index[-1]])) if index.size else (0, -1)

    def sides(self, first: int, last: int) -> tuple[slice, slice]:
        """The bands of pixels at both ends of the range first to last."""
        stop = last + 1
        return slice(first, min(first + self.band, stop)), slice(max(stop - self.band, first), stop)

    def select(self, pixels: Sequence[slice]) -> tuple[Tensor, slice]:
        """The weights of the given pixels, and the range of samples that contribute to them."""
        samples = slice(
            int(self.first_sample[pixels[0].start]), int(self.last_sample[pixels[-1].stop - 1]) + 1
        )
        weights = [self.weights[part, samples] for part in pixels]
        return weights[0] if len(weights) == 1 else torch.cat(weights), samples


@lru_cache(maxsize=64)
def _axis(samples: int, side: int, inside: int, pixels: int) -> _Axis:
    """Resample `samples` logits to `side` input pixels, and the first `inside` of those to `pixels`."""
    weights = resampling(samples, side, inside, pixels)
    nonzero = (weights != 0).numpy()
    band = 2 * math.ceil(pixels * side / (inside * samples)) + 1
    return _Axis(weights, *_ends(nonzero.T), *_ends(nonzero), band)


def _ends(flags: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """First and last true column of each row; (columns, -1) for a row without any."""
    has_any, length = flags.any(1), flags.shape[1]
    first = np.where(has_any, flags.argmax(1), length)
    return first, np.where(has_any, length - 1 - flags[:, ::-1].argmax(1), -1)


def segments_on_cpu(
    candidates: Candidates, f: Frame, window: Window, size: tuple[int, ...], limits: Thresholds
) -> Iterator[Segment]:
    """The stable and unique masks of one window of an image, best first.

    Args:
        candidates: masks above the predicted-IoU threshold, not yet measured, on the CPU.
        f: the window's frame.
        window: (x0, y0, x1, y1) in the image.
        size: (height, width) of the image.
        limits: thresholds that a mask must pass.
    """
    samples = candidates.logits.shape[1:]
    y_axis = _axis(samples[0], f.side, f.input_height, f.height)
    x_axis = _axis(samples[1], f.side, f.input_width, f.width)
    rows, columns = (candidates.logits.amax(dim).numpy() for dim in (2, 1))
    iou, points = candidates.iou.numpy(), candidates.points.numpy()
    low = limits.cut - limits.stability_offset
    kept_boxes = np.zeros((len(iou), 4), np.float32)
    count = 0
    crop_box = (window[0], window[1], window[2] - window[0], window[3] - window[1])

    def is_rejected(box: Box) -> bool:
        return _at_inner_edge(box, window, size) or _suppressed(box, kept_boxes[:count], limits.box_nms)

    for k in np.argsort(-iou, kind="stable"):
        logits = candidates.logits[k]
        early_box = _box(logits, rows[k] > limits.cut, columns[k] > limits.cut, y_axis, x_axis, limits.cut)
        if early_box is not None and is_rejected(early_box):
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
        if early_box is None and is_rejected(box):
            continue
        kept_boxes[count] = box
        count += 1
        xywh = (box[0] + window[0], box[1] + window[1], mask.shape[1], mask.shape[0])
        point = (float(points[k][0]) + window[0], float(points[k][1]) + window[1])
        yield Segment(xywh, mask, int(mask.sum()), float(iou[k]), float(stability), point, crop_box)


def _box(
    logits: Tensor,
    rows: NDArray[np.bool_],
    columns: NDArray[np.bool_],
    y_axis: _Axis,
    x_axis: _Axis,
    cut: float,
) -> Box | None:
    """Inclusive (x0, y0, x1, y1) of the mask, from the pixels near the sides of its largest possible extent.

    Returns None if the mask is empty, or if one of its sides lies further inside.
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
    """First flagged pixel of the near band and last flagged pixel of the far band; None if one has none.

    `flags` holds the near band's pixels, followed by the far band's.
    """
    split = near.stop - near.start
    first, last = flags[:split].argmax(), flags[split:][::-1].argmax()
    if not (flags[first] and flags[-1 - last]):
        return None
    return near.start + int(first), far.stop - 1 - int(last)


def _pixels(
    logits: Tensor, y_axis: _Axis, x_axis: _Axis, rows: Sequence[slice], columns: Sequence[slice]
) -> Floats:
    """Full-size logits of the given rows and columns of pixels."""
    (y_weights, high), (x_weights, wide) = y_axis.select(rows), x_axis.select(columns)
    region = logits[high, wide]
    # Compute the smaller product first.
    if len(y_weights) < len(x_weights):
        return ((y_weights @ region) @ x_weights.T).numpy()
    across = region @ x_weights.T
    if len(y_weights) <= _BLOCK:
        return (y_weights @ across).numpy()
    # A row of pixels depends on three samples, so a block of rows needs only a few.
    blocks = (y_axis.select([block]) for block in _blocks(rows))
    return torch.cat(
        [
            weights @ across[samples.start - high.start : samples.stop - high.start]
            for weights, samples in blocks
        ]
    ).numpy()


def _blocks(rows: Sequence[slice]) -> Iterator[slice]:
    """Split the rows of pixels into blocks, in order."""
    for part in rows:
        for start in range(part.start, part.stop, _BLOCK):
            yield slice(start, min(start + _BLOCK, part.stop))


def _stability(patch: Floats, limits: Thresholds) -> np.float32:
    """Pixels above cut + offset divided by pixels above cut - offset; nan if the latter is 0."""
    high = np.count_nonzero(patch > limits.cut + limits.stability_offset)
    low = np.count_nonzero(patch > limits.cut - limits.stability_offset)
    return np.float32(high) / np.float32(low) if low else np.float32(np.nan)


def _trimmed(mask: BoolMask) -> tuple[Box, BoolMask]:
    """Inclusive (x0, y0, x1, y1) of the true pixels, and a copy of that crop."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    return (x0, y0, x1, y1), mask[y0 : y1 + 1, x0 : x1 + 1].copy()


def _at_inner_edge(box: Box, window: Window, size: tuple[int, ...]) -> bool:
    """Whether the box ends within 20 pixels of a window side that is not an image side."""
    corner, sides = window[:2] * 2, (0, 0, size[1], size[0])
    for value, shift, edge, side in zip(box, corner, window, sides, strict=True):
        position = value + shift
        if abs(position - edge) <= EDGE_PIXELS < abs(position - side):
            return True
    return False


def _suppressed(box: Box, kept_boxes: Floats, threshold: float) -> bool:
    """Whether a kept box has an IoU above the threshold, computed as torchvision does.

    That is in float32, from inclusive corners, without the last pixel.
    """
    if not len(kept_boxes):
        return False
    x0, y0, x1, y1 = box
    width = np.minimum(x1, kept_boxes[:, 2]) - np.maximum(x0, kept_boxes[:, 0])
    height = np.minimum(y1, kept_boxes[:, 3]) - np.maximum(y0, kept_boxes[:, 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (kept_boxes[:, 2] - kept_boxes[:, 0]) * (kept_boxes[:, 3] - kept_boxes[:, 1])
    # Two equal boxes of one pixel have no area: nan suppresses nothing, in torchvision too.
    with np.errstate(invalid="ignore"):
        iou = intersection / (np.float32((x1 - x0) * (y1 - y0)) + areas - intersection)
    return bool((iou.astype(np.float64) > threshold).any())
