"""SAM's image encoder with fused attention.

The same function as segment_anything's (1.0, `image_encoder.py`) without its copies of every attention map.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch import Tensor
from torch.nn import functional as F

_BIAS_VALUES_ON_CPU, _BIAS_VALUES_ELSEWHERE = 1 << 22, 1 << 29
"""Of the relative positions' biases that exist at a time: on a CPU what its cache holds (measured), else what
keeps memory bounded."""


def encode_images(encoder: Any, pictures: Tensor, trunk: Any = None) -> Tensor:
    """Float32 embeddings [B, C, h, w] of normalised float32 [B, 3, side, side].

    Args:
        encoder: an `ImageEncoderViT`, left as it is.
        pictures: as `models.sam.geometry.normalised` makes them.
        trunk: the encoder with its weights in another precision, for all but the neck, whose norms are not
            fused and whose work is small; None: the encoder itself.
    """
    trunk = trunk or encoder
    x = trunk.patch_embed(pictures.to(trunk.patch_embed.proj.weight.dtype))
    if trunk.pos_embed is not None:
        x = x + trunk.pos_embed
    for block in trunk.blocks:
        x = _block(block, x)
    embeddings: Tensor = encoder.neck(x.permute(0, 3, 1, 2).float())
    return embeddings


def _block(block: Any, x: Tensor) -> Tensor:
    inner = block.norm1(x)
    if block.window_size > 0:
        size = inner.shape[1:3]
        inner, padded = window_partition(inner, block.window_size)
        inner = window_unpartition(_attention(block.attn, inner), block.window_size, padded, size)
    else:
        inner = _attention(block.attn, inner)
    x = x + inner
    return x + block.mlp(block.norm2(x))


def _attention(attention: Any, x: Tensor) -> Tensor:
    """[B, h, w, C] to the same; the decomposed relative positions become the bias of fused attention."""
    count, height, width, _ = x.shape
    heads, length = attention.num_heads, height * width
    q, k, v = attention.qkv(x).view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if not attention.use_rel_pos:
        return _joined(attention, F.scaled_dot_product_attention(q, k, v), height, width)
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
    return _joined(attention, out.flatten(2, 3), height, width)


def _parts(
    count: int, heads: int, height: int, width: int, values: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Windows, heads and rows of queries to attend at a time: whole windows, or some rows of one head."""
    every, length = slice(None), height * width
    if heads * length**2 <= values:
        step = values // (heads * length**2)
        yield from ((slice(start, start + step), every, every) for start in range(0, count, step))
        return
    high = max(1, values // (width * length))
    for window, head, row in product(range(count), range(heads), range(0, height, high)):
        yield slice(window, window + 1), slice(head, head + 1), slice(row, row + high)


def _joined(attention: Any, heads: Tensor, height: int, width: int) -> Tensor:
    """[B, heads, h w, d] through the output projection, [B, h, w, C]."""
    out: Tensor = attention.proj(heads.transpose(1, 2).flatten(2))
    return out.unflatten(1, (height, width))
