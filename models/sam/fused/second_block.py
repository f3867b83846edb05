"""Kernel 2 of the low-rank decoder: the second block's write to the image, the final attention's read of it.

As `segray.models.sam.fused.first_block`, with two sets of softmax weights per token instead of one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segray.models.sam.fused.config import BlockConfig
from segray.models.sam.fused.first_block import slot_softmax, store_of_heads
from segray.models.sam.low_rank.operands import SLOTS, ImageOperands
from segray.models.sam.low_rank.prompt_side import FirstPrompts, SecondPrompts


@triton.jit
def _second_block(  # type: ignore[no-untyped-def]
    xq2, pq2, xw1, xw2, xk3, pk3, xv3, xgsq, xc, weights1, rstd1, keys, values1, values2, queries,
    folded, gram11, gram12, gram22, folded1, folded2, pushed1, pushed2,
    weights2, rstd2, read, length, pushed1_stride, pushed2_stride, eps,
    CHANNELS: tl.constexpr, INTERNAL: tl.constexpr, HEADS: tl.constexpr, SLOTS: tl.constexpr,  # noqa: N803
    ASKED_SLOTS: tl.constexpr, TOKENS: tl.constexpr, ASKED: tl.constexpr, TILE: tl.constexpr,  # noqa: N803
    WRITE: tl.constexpr, READ: tl.constexpr, PRECISION: tl.constexpr,  # noqa: N803
):  # fmt: skip
    COLUMNS: tl.constexpr = SLOTS * HEADS  # noqa: N806
    ASKED_COLUMNS: tl.constexpr = ASKED_SLOTS * HEADS  # noqa: N806
    prompt = tl.program_id(0).to(tl.int64)
    column, channel, asked = tl.arange(0, COLUMNS), tl.arange(0, INTERNAL), tl.arange(0, ASKED_COLUMNS)
    block = prompt * COLUMNS * INTERNAL + column[:, None] * INTERNAL + channel[None, :]
    square = prompt * COLUMNS * COLUMNS + column[:, None] * COLUMNS + column[None, :]
    if WRITE:
        key = tl.trans(tl.load(keys + block))
        value1 = tl.trans(tl.load(values1 + block))
        value2 = tl.trans(tl.load(values2 + block))
        fold = tl.load(folded + square)
        products11 = tl.load(gram11 + square)
        products12 = tl.load(gram12 + square)
        products22 = tl.load(gram22 + square)
    if READ:
        asked_block = prompt * ASKED_COLUMNS * INTERNAL + asked[:, None] * INTERNAL + channel[None, :]
        query = tl.trans(tl.load(queries + asked_block))
        tall = prompt * COLUMNS * ASKED_COLUMNS + column[:, None] * ASKED_COLUMNS + asked[None, :]
        fold1 = tl.load(folded1 + tall)
        fold2 = tl.load(folded2 + tall)
        peak = tl.full([ASKED_COLUMNS], float("-inf"), tl.float32)
        total = tl.zeros([ASKED_COLUMNS], tl.float32)
        of_image = tl.zeros([ASKED_COLUMNS, INTERNAL], tl.float32)
        of_weights1 = tl.zeros([ASKED_COLUMNS, COLUMNS], tl.float32)
        of_weights2 = tl.zeros([ASKED_COLUMNS, COLUMNS], tl.float32)
    for start in range(0, length, TILE):
        token = start + tl.arange(0, TILE)
        tile = token[:, None] * INTERNAL + channel[None, :]
        state = (prompt * length + token)[:, None] * COLUMNS + column[None, :]
        c = tl.load(weights1 + state)
        r1 = tl.load(rstd1 + prompt * length + token)
        if WRITE:
            scores = r1[:, None] * tl.dot(tl.load(xq2 + tile), key, input_precision=PRECISION)
            scores = tl.dot(c, fold, scores, input_precision=PRECISION)
            scores = tl.dot(tl.load(pq2 + tile), key, scores, input_precision=PRECISION)
            a = slot_softmax(scores, TILE, SLOTS, HEADS, TOKENS)
            low = a.to(c.dtype)
            twice = 2 * r1[:, None]
            product = twice * tl.dot(tl.load(xw1 + tile), value1, input_precision=PRECISION)
            product = tl.dot(c, products11, product, input_precision=PRECISION)
            nsq = tl.sum(c.to(tl.float32) * product, 1)
            product = twice * tl.dot(tl.load(xw2 + tile), value2, input_precision=PRECISION)
            product = tl.dot(c, products12, product, input_precision=PRECISION)
            product = tl.dot(low, products22, product, input_precision=PRECISION)
            nsq += tl.sum(a * product, 1)
            nsq += r1 * (r1 * tl.load(xgsq + token) + 2 * tl.load(xc + token))
            r2 = tl.rsqrt(nsq / CHANNELS + eps)
            tl.store(weights2 + state, low)
            tl.store(rstd2 + prompt * length + token, r2)
        else:
            low = tl.load(weights2 + state)
            r2 = tl.load(rstd2 + prompt * length + token)
        if READ:
            scores = r1[:, None] * tl.dot(tl.load(xk3 + tile), query, input_precision=PRECISION)
            scores = tl.dot(c, fold1, scores, input_precision=PRECISION)
            scores = tl.dot(low, fold2, scores, input_precision=PRECISION)
            scores = tl.dot(tl.load(pk3 + tile), query, r2[:, None] * scores, input_precision=PRECISION)
            new = tl.maximum(peak, tl.max(scores, 0))
            p = tl.exp2(scores - new[None, :])
            shrunk = tl.exp2(peak - new)
            total = total * shrunk + tl.sum(p, 0)
            p *= r2[:, None]
            placed = tl.trans((p * r1[:, None]).to(c.dtype))
            of_image = tl.dot(
                placed, tl.load(xv3 + tile), of_image * shrunk[:, None], input_precision=PRECISION
            )
            p_low = tl.trans(p.to(c.dtype))
            of_weights1 = tl.dot(p_low, c, of_weights1 * shrunk[:, None], input_precision=PRECISION)
            of_weights2 = tl.dot(p_low, low, of_weights2 * shrunk[:, None], input_precision=PRECISION)
            peak = new
    if READ:
        row = (prompt * COLUMNS + column)[:, None]
        rows1 = tl.load(pushed1 + row * pushed1_stride + channel[None, :])
        rows2 = tl.load(pushed2 + row * pushed2_stride + channel[None, :])
        of_image = of_image / total[:, None]
        low1 = (of_weights1 / total[:, None]).to(rows1.dtype)
        low2 = (of_weights2 / total[:, None]).to(rows2.dtype)
        of_image = tl.dot(low1, rows1, of_image, input_precision=PRECISION)
        of_image = tl.dot(low2, rows2, of_image, input_precision=PRECISION)
        store_of_heads(read, of_image, prompt, ASKED_COLUMNS, ASKED, HEADS, INTERNAL)


def second_block(
    image: ImageOperands,
    first: FirstPrompts,
    second: SecondPrompts,
    before: tuple[Tensor, Tensor],
    positions: tuple[Tensor, Tensor],
    pushed: tuple[Tensor, Tensor],
    eps: float,
    config: BlockConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """The second block's write and the final attention's read.

    Args:
        image: N tokens.
        first, second: B prompts of T tokens, four of them asked for.
        before: the first block's weights [B, N, J] and rstd [B, N].
        positions: [N, I] each, as the second block's queries and the final attention's keys.
        pushed: [B, J, I] each, both writes' values as the final attention's values; rows may be apart.
        eps: of the second block's last norm.
        config: of the launches.

    Returns:
        Softmax weights [B, N, J], rstd float32 [B, N], and the read [B, 4, I] float32.
    """
    (length, internal), (count, columns, _) = image.xq2.shape, second.keys.shape
    asked, heads = second.tokens.shape[1], columns // SLOTS
    weights2, rstd2 = torch.empty_like(before[0]), torch.empty_like(before[1])
    read = torch.empty(count, asked, internal, device=weights2.device)
    for write, reads, launch in config.launches:
        _second_block[(count,)](
            image.xq2, positions[0], image.xw1, image.xw2, image.xk3, positions[1], image.xv3, image.xgsq,
            image.xc, *before, second.keys, first.values, second.values, second.queries,
            second.folded, second.gram11, second.gram12, second.gram22, second.folded1, second.folded2,
            *pushed, weights2, rstd2, read, length, pushed[0].stride(1), pushed[1].stride(1), eps,
            CHANNELS=image.xu.shape[1], INTERNAL=internal, HEADS=heads, SLOTS=SLOTS,
            ASKED_SLOTS=second.queries.shape[1] // heads, TOKENS=first.tokens.shape[1], ASKED=asked,
            TILE=launch.fitting(length), WRITE=write, READ=reads, PRECISION=launch.precision,
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
    return weights2, rstd2, read
