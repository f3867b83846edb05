"""SAM's image encoder with fused attention.

The same function as segment_anything's (1.0, `image_encoder.py`) without its copies of every attention map.
"""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch import Tensor
from torch.nn import functional as F

_BIAS_VALUES, _BIAS_VALUES_ELSEWHERE = 1 << 25, 1 << 29
"""Of the relative positions' biases that exist at a time on a CPU, or one head's; and on other devices."""


def encode_pictures(encoder: Any, pictures: Tensor, trunk: Any = None) -> Tensor:
    """Float32 embeddings [B, C, h, w] of normalised float32 [B, 3, side, side].

    Args:
        encoder: an `ImageEncoderViT`, left as it is.
        pictures: as `models.sam_stages.normalised` makes them.
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

    def attend(part: tuple[slice, slice]) -> Tensor:
        bias = rows[part][..., :, None] + columns[part][..., None, :]
        return F.scaled_dot_product_attention(q[part], k[part], v[part], bias.flatten(-2).flatten(2, 3))

    values = _BIAS_VALUES if x.device.type == "cpu" else _BIAS_VALUES_ELSEWHERE
    of_one = heads * length**2
    if count * of_one <= values:
        return _joined(attention, attend((slice(None), slice(None))), height, width)
    pictures, at_once = max(1, values // of_one), heads if of_one <= values else 1
    parts = [
        torch.cat(
            [attend((slice(b, b + pictures), slice(n, n + at_once))) for n in range(0, heads, at_once)], 1
        )
        for b in range(0, count, pictures)
    ]
    return _joined(attention, torch.cat(parts), height, width)


def _joined(attention: Any, heads: Tensor, height: int, width: int) -> Tensor:
    """[B, heads, h w, d] through the output projection, [B, h, w, C]."""
    out: Tensor = attention.proj(heads.transpose(1, 2).flatten(2))
    return out.unflatten(1, (height, width))
