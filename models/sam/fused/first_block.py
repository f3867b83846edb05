"""Kernel 1 of the low-rank decoder: the first block's write to the image, the second block's read of it.

One program takes a prompt and goes over tiles of image tokens. The write is a softmax over prompt tokens in
every head, then one number per token for the norm; the read is a softmax over image tokens, kept online.
WRITE and READ split the two into launches of their own: fewer registers, more traffic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segray.models.sam.fused.config import BlockConfig
from segray.models.sam.low_rank.operands import SLOTS, ImageOperands
from segray.models.sam.low_rank.prompt_side import FirstPrompts


@triton.jit
def slot_softmax(  # type: ignore[no-untyped-def]
    scores, TILE: tl.constexpr, SLOTS: tl.constexpr, HEADS: tl.constexpr, TOKENS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """Softmax over slots of [TILE, SLOTS * HEADS] scores in powers of 2; padded slots get 0."""
    column = tl.arange(0, SLOTS * HEADS)
    scores = tl.where((column // HEADS < TOKENS)[None, :], scores, float("-inf"))
    # A thread holds all slots of a head, so that these reductions exchange nothing.
    by_slot = tl.reshape(scores, [TILE, SLOTS, HEADS])
    weights = tl.exp2(by_slot - tl.max(by_slot, 1, keep_dims=True))
    weights = weights * (1.0 / tl.sum(weights, 1, keep_dims=True))
    return tl.reshape(weights, [TILE, SLOTS * HEADS])


@triton.jit
def store_of_heads(  # type: ignore[no-untyped-def]
    out, values, prompt, ROWS: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr,  # noqa: N803
    INTERNAL: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """[ROWS, INTERNAL] to [prompt, TOKENS, INTERNAL]: every head's channels of its own rows."""
    row, channel = tl.arange(0, ROWS)[:, None], tl.arange(0, INTERNAL)[None, :]
    mine = (channel // (INTERNAL // HEADS) == row % HEADS) & (row // HEADS < TOKENS)
    tl.store(out + prompt * TOKENS * INTERNAL + row // HEADS * INTERNAL + channel, values, mask=mine)


@triton.jit
def _first_block(  # type: ignore[no-untyped-def]
    q0, xv, xk, pk, xval, xsq, keys, values, queries, gram, folded, pushed,
    weights, rstd, read, length, pushed_stride, eps,
    CHANNELS: tl.constexpr, INTERNAL: tl.constexpr, HEADS: tl.constexpr, SLOTS: tl.constexpr,  # noqa: N803
    TOKENS: tl.constexpr, TILE: tl.constexpr, WRITE: tl.constexpr, READ: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
):  # fmt: skip
    COLUMNS: tl.constexpr = SLOTS * HEADS  # noqa: N806
    prompt = tl.program_id(0).to(tl.int64)
    column, channel = tl.arange(0, COLUMNS), tl.arange(0, INTERNAL)
    block = prompt * COLUMNS * INTERNAL + column[:, None] * INTERNAL + channel[None, :]
    square = prompt * COLUMNS * COLUMNS + column[:, None] * COLUMNS + column[None, :]
    if WRITE:
        key = tl.trans(tl.load(keys + block))
        value = tl.trans(tl.load(values + block))
        products = tl.load(gram + square)
    if READ:
        query = tl.trans(tl.load(queries + block))
        fold = tl.load(folded + square)
        peak = tl.full([COLUMNS], float("-inf"), tl.float32)
        total = tl.zeros([COLUMNS], tl.float32)
        of_image = tl.zeros([COLUMNS, INTERNAL], tl.float32)
        of_weights = tl.zeros([COLUMNS, COLUMNS], tl.float32)
    for start in range(0, length, TILE):
        token = start + tl.arange(0, TILE)
        tile = token[:, None] * INTERNAL + channel[None, :]
        state = (prompt * length + token)[:, None] * COLUMNS + column[None, :]
        if WRITE:
            scores = tl.dot(tl.load(q0 + tile), key, input_precision=PRECISION)
            a = slot_softmax(scores, TILE, SLOTS, HEADS, TOKENS)
            product = 2 * tl.dot(tl.load(xv + tile), value, input_precision=PRECISION)
            product = tl.dot(a.to(products.dtype), products, product, input_precision=PRECISION)
            r = tl.rsqrt((tl.load(xsq + token) + tl.sum(a * product, 1)) / CHANNELS + eps)
            c = (a * r[:, None]).to(weights.dtype.element_ty)
            tl.store(weights + state, c)
            tl.store(rstd + prompt * length + token, r)
        else:
            c = tl.load(weights + state)
            r = tl.load(rstd + prompt * length + token)
        if READ:
            scores = r[:, None] * tl.dot(tl.load(xk + tile), query, input_precision=PRECISION)
            scores = tl.dot(c, fold, scores, input_precision=PRECISION)
            scores = tl.dot(tl.load(pk + tile), query, scores, input_precision=PRECISION)
            new = tl.maximum(peak, tl.max(scores, 0))
            p = tl.exp2(scores - new[None, :])
            shrunk = tl.exp2(peak - new)
            total = total * shrunk + tl.sum(p, 0)
            placed = tl.trans((p * r[:, None]).to(c.dtype))
            of_image = tl.dot(
                placed, tl.load(xval + tile), of_image * shrunk[:, None], input_precision=PRECISION
            )
            p_low = tl.trans(p.to(c.dtype))
            of_weights = tl.dot(p_low, c, of_weights * shrunk[:, None], input_precision=PRECISION)
            peak = new
    if READ:
        rows = tl.load(pushed + (prompt * COLUMNS + column)[:, None] * pushed_stride + channel[None, :])
        of_weights = (of_weights / total[:, None]).to(rows.dtype)
        of_image = tl.dot(of_weights, rows, of_image / total[:, None], input_precision=PRECISION)
        store_of_heads(read, of_image, prompt, COLUMNS, TOKENS, HEADS, INTERNAL)


def first_block(
    image: ImageOperands,
    prompts: FirstPrompts,
    pk: Tensor,
    pushed: Tensor,
    eps: float,
    config: BlockConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """The first block's write and the second block's read.

    Args:
        image: N tokens.
        prompts: B prompts of T tokens.
        pk: [N, I], positions as the second block's keys.
        pushed: [B, J, I], the first write's values as the second block's values; rows may be apart.
        eps: of the first block's last norm.
        config: of the launches.

    Returns:
        Softmax weights times `rstd` [B, N, J], rstd float32 [B, N], and the read [B, T, I] float32.
    """
    (length, internal), (count, columns, _) = image.q0.shape, prompts.keys.shape
    tokens = prompts.tokens.shape[1]
    weights = image.q0.new_empty(count, length, columns)
    rstd = torch.empty(count, length, device=weights.device)
    read = torch.empty(count, tokens, internal, device=weights.device)
    for write, reads, launch in config.launches:
        _first_block[(count,)](
            image.q0, image.xv, image.xk, pk, image.xval, image.xsq, prompts.keys, prompts.values,
            prompts.queries, prompts.gram, prompts.folded, pushed, weights, rstd, read,
            length, pushed.stride(1), eps,
            CHANNELS=image.xu.shape[1], INTERNAL=internal, HEADS=columns // SLOTS, SLOTS=SLOTS,
            TOKENS=tokens, TILE=launch.fitting(length), WRITE=write, READ=reads,
            PRECISION=launch.precision, num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
    return weights, rstd, read
