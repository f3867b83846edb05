"""The three kernels over image tokens in plain torch, for tests. Sums are float32 or wider."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from segray.models.sam.fused.low_rank import SLOTS, ImageOperands, PromptMaps
from segray.models.sam.fused.prompt_side import FirstPrompts, SecondPrompts


def first_block(
    image: ImageOperands, prompts: FirstPrompts, pk: Tensor, pushed: Tensor, eps: float, tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel 1, see `segray.models.sam.fused.first_block.first_block`."""
    heads = prompts.keys.shape[1] // SLOTS
    xv, xk, q0, xval, position = (wide(x) for x in (image.xv, image.xk, image.q0, image.xval, pk))
    keys, values, queries = wide(prompts.keys), wide(prompts.values), wide(prompts.queries)
    a = slot_softmax(q0 @ keys.mT, heads, tokens)
    product = 2 * (xv @ values.mT) + a @ wide(prompts.gram)
    rstd = torch.rsqrt((image.xsq + (a * product).sum(2)) / image.xu.shape[1] + eps)
    scores = rstd[..., None] * (xk @ queries.mT + a @ wide(prompts.folded)) + position @ queries.mT
    p = torch.softmax(scores.double() * math.log(2), 1).to(scores.dtype)
    weights = rstd[..., None] * a
    read = (p * rstd[..., None]).mT @ xval + p.mT @ weights @ wide(pushed)
    return weights, rstd, of_heads(read, heads, tokens)


def second_block(
    image: ImageOperands,
    first: FirstPrompts,
    second: SecondPrompts,
    before: tuple[Tensor, Tensor],
    positions: tuple[Tensor, Tensor],
    pushed: tuple[Tensor, Tensor],
    eps: float,
    tokens: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel 2, see `segray.models.sam.fused.second_block.second_block`; `before` is what kernel 1 wrote."""
    heads, asked = second.keys.shape[1] // SLOTS, second.tokens.shape[1]
    c1, rstd1, (pq2, pk3) = wide(before[0]), before[1][..., None], positions
    keys, queries = wide(second.keys), wide(second.queries)
    scores = rstd1 * (wide(image.xq2) @ keys.mT) + c1 @ wide(second.folded) + wide(pq2) @ keys.mT
    a2 = slot_softmax(scores, heads, tokens)
    w1 = 2 * rstd1 * (wide(image.xw1) @ wide(first.values).mT) + c1 @ wide(second.gram11)
    w2 = 2 * rstd1 * (wide(image.xw2) @ wide(second.values).mT) + c1 @ wide(second.gram12)
    w2 = w2 + a2 @ wide(second.gram22)
    nsq = rstd1.square() * image.xgsq[:, None] + 2 * rstd1 * image.xc[:, None]
    nsq = nsq[..., 0] + (c1 * w1 + a2 * w2).sum(2)
    rstd2 = torch.rsqrt(nsq / image.xu.shape[1] + eps)[..., None]
    low_rank = c1 @ wide(second.folded1) + a2 @ wide(second.folded2)
    scores = rstd2 * (rstd1 * (wide(image.xk3) @ queries.mT) + low_rank) + wide(pk3) @ queries.mT
    p = torch.softmax(scores.double() * math.log(2), 1).to(scores.dtype) * rstd2
    read = (p * rstd1).mT @ wide(image.xv3) + p.mT @ c1 @ wide(pushed[0]) + p.mT @ a2 @ wide(pushed[1])
    return a2, rstd2[..., 0], of_heads(read, heads, asked)


def upscaled_logits(
    image: ImageOperands,
    state: tuple[Tensor, Tensor, Tensor, Tensor],
    ups: tuple[Tensor, Tensor],
    maps: PromptMaps,
    upscaling: tuple[Tensor, Tensor, float, Tensor, Tensor],
    hyper: Tensor,
    width: int,
) -> Tensor:
    """Kernel 3, see `segray.models.sam.fused.masks_kernel.upscaled_logits`: [B, 3, 4 h, 4 w]."""
    c1, rstd1, a2, rstd2 = state
    norm_weight, norm_bias, eps, weight, bias = upscaling
    c, a = wide(c1) * rstd2[..., None], wide(a2) * rstd2[..., None]
    up = (rstd1 * rstd2)[..., None] * wide(image.xu) + maps.up_bias + c @ wide(ups[0]) + a @ wide(ups[1])
    up = up.unflatten(2, (4, -1))
    up = F.gelu(F.layer_norm(up, up.shape[-1:], norm_weight.to(up), norm_bias.to(up), eps))
    up = F.gelu(up @ wide(weight) + bias.repeat(4).to(up)).unflatten(3, (4, -1))
    logits = torch.einsum("bnqkc,bmc->bmnqk", up, wide(hyper))
    grid = logits.unflatten(2, (-1, width)).unflatten(5, (2, 2)).unflatten(4, (2, 2))
    return grid.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)


def slot_softmax(scores: Tensor, heads: int, tokens: int) -> Tensor:
    """Softmax over the slots of [..., SLOTS heads] scores in powers of 2; padded slots get 0."""
    by_slot = scores.unflatten(-1, (SLOTS, heads))
    by_slot = F.pad(by_slot[..., :tokens, :], (0, 0, 0, SLOTS - tokens), value=float("-inf"))
    weights = torch.exp2(by_slot - by_slot.amax(-2, keepdim=True))
    return (weights / weights.sum(-2, keepdim=True)).flatten(-2)


def of_heads(read: Tensor, heads: int, tokens: int) -> Tensor:
    """[B, slots H, I] as [B, tokens, I]: every head's channels of its own rows."""
    blocks = read.unflatten(1, (-1, heads)).unflatten(3, (heads, -1))[:, :tokens]
    return blocks.diagonal(dim1=2, dim2=3).movedim(3, 2).flatten(2)


def wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
