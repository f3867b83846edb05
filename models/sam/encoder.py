"""SAM's image encoder with fused attention.

Computes the same function as segment_anything 1.0 (`image_encoder.py`) without storing whole attention maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import torch
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from segment_anything.modeling.image_encoder import Attention, Block, ImageEncoderViT

_BIAS_VALUES_ON_CPU, _BIAS_VALUES_ELSEWHERE = 1 << 22, 1 << 29
"""Largest number of relative position bias values held at a time: on a CPU what fits its cache (measured),
elsewhere a bound on memory."""


def encode_images(encoder: ImageEncoderViT, images: Tensor, trunk: ImageEncoderViT | None = None) -> Tensor:
    """Float32 embeddings [B, C, h, w] of normalised float32 images [B, 3, side, side].

    Args:
        encoder: an `ImageEncoderViT`; not modified.
        images: from `models.sam.geometry.normalised`.
        trunk: the encoder with its weights in another precision, for everything but the neck, whose norms
            are not fused and which costs little; None: the encoder itself.
    """
    trunk = trunk or encoder
    x = trunk.patch_embed(images.to(trunk.patch_embed.proj.weight.dtype))
    if trunk.pos_embed is not None:
        x = x + trunk.pos_embed
    for block in trunk.blocks:
        x = _block(block, x)
    embeddings: Tensor = encoder.neck(x.permute(0, 3, 1, 2).float())
    return embeddings


def _block(block: Block, x: Tensor) -> Tensor:
    inner = block.norm1(x)
    if block.window_size > 0:
        size = inner.shape[1:3]
        inner, padded = window_partition(inner, block.window_size)
        inner = window_unpartition(_attention(block.attn, inner), block.window_size, padded, size)
    else:
        inner = _attention(block.attn, inner)
    x = x + inner
    return x + block.mlp(block.norm2(x))


def _attention(attention: Attention, x: Tensor) -> Tensor:
    """Self-attention of [B, h, w, C]; decomposed relative positions become the fused attention's bias."""
    count, height, width, _ = x.shape
    heads, length = attention.num_heads, height * width
    q, k, v = attention.qkv(x).view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if not attention.use_rel_pos:
        return _project(attention, F.scaled_dot_product_attention(q, k, v), height, width)
    grid = q.unflatten(2, (height, width))
    rows = torch.einsum("bnhwc,hkc->bnhwk", grid, get_rel_pos(height, height, attention.rel_pos_h))
    columns = torch.einsum("bnhwc,wkc->bnhwk", grid, get_rel_pos(width, width, attention.rel_pos_w))

    values = _BIAS_VALUES_ON_CPU if x.device.type == "cpu" else _BIAS_VALUES_ELSEWHERE
    out = torch.empty(count, heads, height, width, q.shape[-1], dtype=q.dtype, device=q.device)
    for part in _parts(count, heads, height, width, values):
        bias = rows[part][..., :, None] + columns[part][..., None, :]
        queries, bias = grid[part].flatten(2, 3), bias.flatten(-2).flatten(2, 3)
        attended = F.scaled_dot_product_attention(queries, k[part[:2]], v[part[:2]], bias)
        out[part] = attended.unflatten(2, (-1, width))
    return _project(attention, out.flatten(2, 3), height, width)


def _parts(
    count: int, heads: int, height: int, width: int, values: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Slices of windows, heads and query rows per attention call: whole windows, or rows of one head."""
    everything, length = slice(None), height * width
    if heads * length**2 <= values:
        step = values // (heads * length**2)
        yield from ((slice(start, start + step), everything, everything) for start in range(0, count, step))
        return
    high = max(1, values // (width * length))
    for window, head, row in product(range(count), range(heads), range(0, height, high)):
        yield slice(window, window + 1), slice(head, head + 1), slice(row, row + high)


def _project(attention: Attention, heads: Tensor, height: int, width: int) -> Tensor:
    """Output projection of [B, heads, h w, d] to [B, h, w, C]."""
    out: Tensor = attention.proj(heads.transpose(1, 2).flatten(2))
    return out.unflatten(1, (height, width))
