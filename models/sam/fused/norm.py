"""A residual sum and the layer norm after it as one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _residual_norm(  # type: ignore[no-untyped-def]
    x, added, weight, bias, total, normed, channels, eps,
    HAS_ADDED: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    channel = tl.arange(0, BLOCK)
    inside = channel < channels
    at = tl.program_id(0).to(tl.int64) * channels + channel
    row = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_ADDED:
        row += tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + at, row.to(total.dtype.element_ty), mask=inside)
    row = tl.where(inside, row - tl.sum(row, 0) / channels, 0.0)
    row *= tl.rsqrt(tl.sum(row * row, 0) / channels + eps)
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + at, (row * scale + shift).to(normed.dtype.element_ty), mask=inside)


def residual_norm(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> Tensor:
    """Layer norm [n, C] of `x + added`, which becomes `x`; sums are float32.

    Args:
        x: [n, C], contiguous; written over where something is added.
        added: [n, C], contiguous, or None.
        weight, bias: [C].
        eps: added to the variance.
    """
    normed = torch.empty_like(x)
    rows, channels = x.shape
    _residual_norm[(rows,)](
        x, x if added is None else added, weight, bias, x, normed, channels, eps,
        HAS_ADDED=added is not None, BLOCK=triton.next_power_of_2(channels), num_warps=4,
    )  # fmt: skip
    return normed
