"""Kernel 3 of the low-rank decoder: from softmax weights to the logits of masks.

The first transposed convolution is linear, so that it acts on the low-rank form; norm, GELU, the second
convolution, GELU and the product with the mask tokens follow tile by tile, and only logits are written.
Prompts without a confident mask return at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from segray.models.sam.fused.config import MasksConfig
from segray.models.sam.upscaling import upscaling_weight

if TYPE_CHECKING:
    from segment_anything.modeling import MaskDecoder


@triton.jit
def gelu(x, KIND: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    """GELU by `erf`, or by an odd polynomial in `tanh` (error at most 2.6e-5) or a `sigmoid` of twice it."""
    if KIND == "erf":
        return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    square = tl.minimum(x * x, 36.0)
    inner = x * (0.79749712 + square * (0.03701543 - 0.00035311 * square))
    if KIND == "tanh":
        half = 0.5 * x
        tanh = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [inner], dtype=tl.float32, is_pure=True, pack=1
        )
        return half + half * tanh
    return x * (1.0 / (1 + tl.exp2(-2.885390081777927 * inner)))


@triton.jit
def _mask_weights(hyper, SHIFT: tl.constexpr, NARROW: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    """[4 NARROW, 32]: channels of four sub-pixels (k, l) to columns (mask, k, x) with x = 2 SHIFT + l."""
    row, column = tl.arange(0, 4 * NARROW)[:, None], tl.arange(0, 32)[None, :]
    mask = column // 8
    seen = (row // (2 * NARROW) == column // 4 % 2) & (row // NARROW % 2 + 2 * SHIFT == column % 4)
    return tl.load(hyper + mask * NARROW + row % NARROW, mask=seen & (mask < 3), other=0.0)


@triton.jit
def _upscaled_logits(  # type: ignore[no-untyped-def]
    xu, weights1, rstd1, weights2, rstd2, up1, up2, added1, added2, norm_weight, norm_bias, weight, hyper,
    flags, logits, length, needed, width, eps,
    COLUMNS: tl.constexpr, FEATURES: tl.constexpr, TILE: tl.constexpr, GELU: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr, MAPPED: tl.constexpr,  # noqa: N803
):  # fmt: skip
    NARROW: tl.constexpr = FEATURES // 2  # noqa: N806
    prompt = tl.program_id(0).to(tl.int64)
    column, feature, output = tl.arange(0, COLUMNS), tl.arange(0, FEATURES), tl.arange(0, 32)
    scale, shift = tl.load(norm_weight + feature)[None, :], tl.load(norm_bias + feature)[None, :]
    wide = tl.arange(0, 4 * NARROW)
    second = tl.load(weight + feature[:, None] * (4 * NARROW) + wide[None, :])
    masks0 = _mask_weights(hyper + prompt * 3 * NARROW, 0, NARROW)
    masks1 = _mask_weights(hyper + prompt * 3 * NARROW, 1, NARROW)
    ups = prompt * COLUMNS * 4 * FEATURES + column[:, None] * (4 * FEATURES) + feature[None, :]
    plane = needed * 16
    places = logits + (prompt * 3 + output // 8) * plane + output // 4 % 2 * (4 * width) + output % 4
    end = tl.where(tl.load(flags + prompt) != 0, needed, 0)
    for start in range(tl.program_id(1) * TILE, end, tl.num_programs(1) * TILE):
        token = start + tl.arange(0, TILE)
        state = (prompt * length + token)[:, None] * COLUMNS + column[None, :]
        r1 = tl.load(rstd1 + prompt * length + token)[:, None]
        r2 = tl.load(rstd2 + prompt * length + token)[:, None]
        c = (tl.load(weights1 + state) * r2).to(second.dtype)
        a = (tl.load(weights2 + state) * r2).to(second.dtype)
        corner = token // width * (16 * width) + token % width * 4
        for i in tl.static_range(2):
            out = tl.zeros([TILE, 32], tl.float32)
            for j in tl.static_range(2):
                part = (2 * i + j) * FEATURES
                up = tl.load(xu + token[:, None] * (4 * FEATURES) + part + feature[None, :]) * (r1 * r2)
                if MAPPED:
                    up += tl.load(added1 + token[:, None] * (4 * FEATURES) + part + feature[None, :])
                else:
                    up += tl.load(added1 + part + feature)[None, :]
                up = tl.dot(c, tl.load(up1 + ups + part), up, input_precision=PRECISION)
                up = tl.dot(a, tl.load(up2 + ups + part), up, input_precision=PRECISION)
                up -= tl.sum(up, 1)[:, None] / FEATURES
                up *= tl.rsqrt(tl.sum(up * up, 1) / FEATURES + eps)[:, None]
                low = gelu(up * scale + shift, GELU).to(second.dtype)
                pixels = tl.dot(low, second, input_precision=PRECISION)
                if MAPPED:
                    pixel = 4 * token + 2 * i + j
                    pixels += tl.load(added2 + pixel[:, None] * (4 * NARROW) + wide[None, :])
                else:
                    pixels += tl.load(added2 + wide)[None, :]
                pixels = gelu(pixels, GELU)
                masks = masks0 if j == 0 else masks1
                out = tl.dot(pixels.to(second.dtype), masks, out, input_precision=PRECISION)
            at = places[None, :] + (corner + 2 * i * 4 * width)[:, None]
            tl.store(at, out, mask=(token < needed)[:, None] & (output < 24)[None, :])


@dataclass(frozen=True)
class Upscaling:
    """`output_upscaling` of a decoder: the norm in float32, the second convolution in the operands' type.

    Attributes:
        norm_weight, norm_bias, eps: of the norm over C / 4 channels.
        weight: [C / 4, C / 2], four sub-pixels.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    eps: float
    weight: Tensor

    @classmethod
    def of(cls, decoder: MaskDecoder, dtype: torch.dtype) -> Upscaling:
        """Of segment_anything's `MaskDecoder`, float32."""
        _, norm, _, second, _ = decoder.output_upscaling
        return cls(norm.weight, norm.bias, norm.eps, upscaling_weight(second).to(dtype))


def upscaled_logits(
    xu: Tensor,
    state: tuple[Tensor, Tensor, Tensor, Tensor],
    ups: tuple[Tensor, Tensor],
    added: tuple[Tensor, Tensor],
    upscaling: Upscaling,
    hyper: Tensor,
    flags: Tensor,
    grid: tuple[int, int],
    config: MasksConfig,
) -> Tensor:
    """Logits float32 [B, 3, 4 rows, 4 width] of the flagged prompts; those of others are not written.

    Args:
        xu: [N, C] of the image, see `ImageOperands`.
        state: both blocks' weights [B, N, J] and rstd [B, N]: weights 1, rstd 1, weights 2, rstd 2.
        ups: [B, J, C] each, both writes' values through the first transposed convolution.
        added: to the products of both transposed convolutions, float32 [C] and [C / 2], or in the operands'
            type [N, C] and [4 N, C / 2].
        upscaling: the rest of it.
        hyper: [B, 3, C / 8], what the upscaled channels count for in each mask.
        flags: bool [B].
        grid: (rows, width) of the tokens that are wanted, the first ones.
        config: of the launch.
    """
    (count, length, columns), (rows, width) = state[0].shape, grid
    logits = torch.empty(count, 3, 4 * rows, 4 * width, device=hyper.device)
    _upscaled_logits[(count, config.programs)](
        xu, *state, *ups, *added, upscaling.norm_weight, upscaling.norm_bias, upscaling.weight,
        hyper.to(upscaling.weight.dtype).contiguous(), flags.to(torch.uint8), logits,
        length, rows * width, width, upscaling.eps,
        COLUMNS=columns, FEATURES=xu.shape[1] // 4, TILE=config.fitting(length), GELU=config.gelu,
        PRECISION=config.precision, MAPPED=added[0].ndim == 2,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return logits
