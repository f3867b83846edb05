"""Measure masks from their low-resolution logits: pixel counts for the stability score, and the box.

A mask at full size is R_y L R_x^T with the two small matrices of `models.sam.geometry.resampling`. Masks are
measured a few at a time, which bounds memory; no shape depends on a value, so the host never waits for a GPU.
On a GPU with Triton installed, the kernel of `models.sam.statistics_kernel` does the work.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segray.models.sam.geometry import Frame, resampling
from segray.models.transfer import to_device

if TYPE_CHECKING:  # Triton is not installed everywhere
    from segray.models.sam.statistics_kernel import InterpolationWeights

COLUMNS = ("high", "low", "x0", "y0", "x1", "y1")
"""Of `measure`: pixels above cut + offset, pixels above cut - offset, and the inclusive box of the mask."""

_PIXELS_AT_ONCE = 1 << 25


def measure(logits: Tensor, keep: Tensor, f: Frame, samples: int, cut: float, offset: float) -> Tensor:
    """Statistics of masks at full size, int32 [M, 6], see `COLUMNS`; the box of an empty mask is -1.

    Args:
        logits: float32 [M, h, w], the rows that overlap the image.
        keep: bool [M]; every statistic of the other masks is -1.
        f: frame of the image.
        samples: rows of logits over the model's square input, including those below the image.
        cut: threshold of a mask.
        offset: added to and subtracted from `cut` for the stability score.
    """
    rows, columns, device = logits.shape[1], logits.shape[2], logits.device
    y_axis = (samples, f.side, f.input_height, f.height, rows, device)
    x_axis = (columns, f.side, f.input_width, f.width, columns, device)
    if device.type == "cuda" and _has_triton():
        statistics = _by_kernel(logits, keep, y_axis, x_axis, cut, offset)
    else:
        y, x = _matrix(*y_axis), _matrix(*x_axis)
        step = max(1, _PIXELS_AT_ONCE // (f.height * f.width))
        statistics = torch.cat([_measured(y @ part @ x.T, cut, offset) for part in logits.split(step)])
    return torch.where(keep[:, None], statistics, -1)


_Axis = tuple[int, int, int, int, int, torch.device]


@lru_cache(maxsize=64)
def _matrix(samples: int, side: int, inside: int, pixels: int, used: int, device: torch.device) -> Tensor:
    """The resampling matrix of one axis from the first `used` samples, [pixels, used]."""
    return to_device(resampling(samples, side, inside, pixels)[:, :used].contiguous(), device)


@lru_cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _by_kernel(
    logits: Tensor, keep: Tensor, y_axis: _Axis, x_axis: _Axis, cut: float, offset: float
) -> Tensor:
    from segray.models.sam.statistics_kernel import measured

    return measured(logits, keep, _kernel_weights(*y_axis), _kernel_weights(*x_axis), cut, offset)


@lru_cache(maxsize=64)
def _kernel_weights(
    samples: int, side: int, inside: int, pixels: int, used: int, device: torch.device
) -> InterpolationWeights:
    from segray.models.sam.statistics_kernel import interpolation_weights

    return interpolation_weights(resampling(samples, side, inside, pixels)[:, :used], device)


def _measured(full: Tensor, cut: float, offset: float) -> Tensor:
    """The statistics of full-size logits [K, H, W]."""
    counts = [(full > level).sum((1, 2)) for level in (cut + offset, cut - offset)]
    # amax of floats is several times faster than `any` of booleans.
    (x0, x1), (y0, y1) = _ends(full.amax(1) > cut), _ends(full.amax(2) > cut)
    return torch.stack([*counts, x0, y0, x1, y1], 1).to(torch.int32)


def _ends(flags: Tensor) -> tuple[Tensor, Tensor]:
    """First and last true column of each row; both -1 for a row without any."""
    bits, has_any = flags.to(torch.uint8), flags.any(1)
    last = flags.shape[1] - 1 - bits.flip(1).argmax(1)
    return torch.where(has_any, bits.argmax(1), -1), torch.where(has_any, last, -1)
