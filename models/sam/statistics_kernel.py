"""Mask statistics as one Triton kernel: full-size pixels are never written to memory.

A pixel is a weighted sum of at most 3 x 3 low-resolution logits (more if a model's input has less than twice
as many pixels as logits). One program processes some rows of pixels of one mask and keeps counts and row
extents in registers. It skips masks that are left out, and pixels without a contributing logit above
cut - offset. `models.sam.statistics` computes the same with matrix products.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from segray.models.transfer import to_device

_ROWS, _COLUMNS = 16, 64


@triton.jit
def _statistics(  # type: ignore[no-untyped-def]
    logits, keep, row_peaks, column_peaks, y_first, y_weights, x_first, x_weights, out,
    samples_y, samples_x, height, width, cut, high, low,
    Y_TAPS: tl.constexpr, X_TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    mask, block = tl.program_id(0), tl.program_id(1)
    y = block * ROWS + tl.arange(0, ROWS)
    y_inside = y < height
    y_sample = tl.load(y_first + y, mask=y_inside, other=0)
    is_kept = tl.load(keep + mask) != 0
    y_peak = tl.full([ROWS], float("-inf"), tl.float32)
    for a in tl.static_range(Y_TAPS):
        y_value = tl.load(
            row_peaks + mask * samples_y + y_sample + a, mask=y_inside & is_kept, other=float("-inf")
        )
        y_peak = tl.maximum(y_peak, y_value)
    columns = tl.where(tl.max(y_peak, 0) > low, width, 0)
    n_high, n_low = tl.zeros([ROWS], tl.int32), tl.zeros([ROWS], tl.int32)
    left, right = tl.full([ROWS], 2147483647, tl.int32), tl.full([ROWS], -1, tl.int32)
    for start in range(0, columns, COLUMNS):
        x = start + tl.arange(0, COLUMNS)
        x_inside = x < width
        x_sample = tl.load(x_first + x, mask=x_inside, other=0)
        x_peak = tl.full([COLUMNS], float("-inf"), tl.float32)
        for b in tl.static_range(X_TAPS):
            x_value = tl.load(
                column_peaks + mask * samples_x + x_sample + b, mask=x_inside, other=float("-inf")
            )
            x_peak = tl.maximum(x_peak, x_value)
        if tl.max(x_peak, 0) > low:
            pixels = tl.zeros([ROWS, COLUMNS], tl.float32)
            for a in tl.static_range(Y_TAPS):
                line = tl.zeros([ROWS, COLUMNS], tl.float32)
                at = logits + (mask * samples_y + y_sample + a)[:, None] * samples_x
                for b in tl.static_range(X_TAPS):
                    x_weight = tl.load(x_weights + x * X_TAPS + b, mask=x_inside, other=0.0)
                    line += tl.load(at + (x_sample + b)[None, :]) * x_weight[None, :]
                y_weight = tl.load(y_weights + y * Y_TAPS + a, mask=y_inside, other=0.0)
                pixels += line * y_weight[:, None]
            inside = y_inside[:, None] & x_inside[None, :]
            n_high += tl.sum((inside & (pixels > high)).to(tl.int32), 1)
            n_low += tl.sum((inside & (pixels > low)).to(tl.int32), 1)
            filled = inside & (pixels > cut)
            left = tl.minimum(left, tl.min(tl.where(filled, x[None, :], 2147483647), 1))
            right = tl.maximum(right, tl.max(tl.where(filled, x[None, :], -1), 1))
    out += (mask * tl.num_programs(1) + block) * 6
    tl.store(out, tl.sum(n_high, 0))
    tl.store(out + 1, tl.sum(n_low, 0))
    tl.store(out + 2, tl.min(left, 0))
    tl.store(out + 3, tl.min(tl.where(right >= 0, y, 2147483647), 0))
    tl.store(out + 4, tl.max(right, 0))
    tl.store(out + 5, tl.max(tl.where(right >= 0, y, -1), 0))


class InterpolationWeights(NamedTuple):
    """Resampling of one axis: samples first[p] to first[p] + k - 1 contribute to pixel p.

    Attributes:
        first: int32 [pixels].
        weights: float32 [pixels, k].
    """

    first: Tensor
    weights: Tensor


def interpolation_weights(matrix: Tensor, device: torch.device) -> InterpolationWeights:
    """Compact form of a resampling matrix [pixels, samples] on the CPU."""
    samples = matrix.shape[1]
    nonzero = (matrix != 0).to(torch.uint8)
    first, last = nonzero.argmax(1), samples - 1 - nonzero.flip(1).argmax(1)
    k = int((last - first).max()) + 1
    first = first.clamp(max=samples - k)
    weights = matrix.gather(1, first[:, None] + torch.arange(k))
    return InterpolationWeights(to_device(first.to(torch.int32), device), to_device(weights, device))


def measured(
    logits: Tensor, keep: Tensor, y: InterpolationWeights, x: InterpolationWeights, cut: float, offset: float
) -> Tensor:
    """Counts and boxes int32 [M, 6] as in `models.sam.statistics`; no pixels if a mask is left out.

    Args:
        logits: float32 [M, h, w], contiguous.
        keep: bool [M].
        y: weights of the h rows.
        x: weights of the w columns.
        cut: threshold of a mask.
        offset: added to and subtracted from `cut` for the stability score.
    """
    (count, rows, columns), height, width = logits.shape, len(y.first), len(x.first)
    blocks = triton.cdiv(height, _ROWS)
    out = torch.empty(count, blocks, 6, dtype=torch.int32, device=logits.device)
    _statistics[(count, blocks)](
        logits, keep.to(torch.uint8), logits.amax(2), logits.amax(1), y.first, y.weights, x.first, x.weights,
        out, rows, columns, height, width, cut, cut + offset, cut - offset,
        Y_TAPS=y.weights.shape[1], X_TAPS=x.weights.shape[1], ROWS=_ROWS, COLUMNS=_COLUMNS,
    )  # fmt: skip
    counts, low, high = out[..., :2].sum(1), out[..., 2:4].amin(1), out[..., 4:].amax(1)
    return torch.cat([counts.to(torch.int32), torch.where(high >= 0, low, -1), high], 1)
