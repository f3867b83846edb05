"""The prompt tokens' side of the low-rank decoder: a few tokens of every prompt at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from segray.models.sam.low_rank.operands import LOG2_E, ImageOperands, PromptMaps, query_scale

if TYPE_CHECKING:
    from segment_anything.modeling import TwoWayTransformer
    from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock


@dataclass(frozen=True)
class FirstPrompts:
    """What the first block's write and the second one's read take of B prompts, and what later steps need.

    Attributes:
        tokens: [B, T, C] after the second block's self-attention.
        keys, values: [B, J, I], block-diagonal, of the first write.
        queries: [B, J, I], block-diagonal, of the second block's read.
        gram: [B, J, J] of the values.
        folded: [B, J, J], values by queries.
        w1: [B, J, C], see `PromptMaps.first`, as the rest.
        v2, q2, k3, v3: [B, J, I].
        up: [B, J, C] of `PromptMaps.first_up`.
    """

    tokens: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor
    gram: Tensor
    folded: Tensor
    w1: Tensor
    v2: Tensor
    q2: Tensor
    k3: Tensor
    v3: Tensor
    up: Tensor


@dataclass(frozen=True)
class SecondPrompts:
    """As `FirstPrompts`, of the second write and the final attention.

    Attributes:
        tokens: [B, 4, C], the asked ones after the second block.
        keys, values: [B, J, I].
        queries: [B, K, I], K columns of the asked tokens.
        folded: [B, J, J], the first write's values by keys.
        gram11, gram12, gram22: [B, J, J] of both writes' values; the middle one is doubled.
        folded1, folded2: [B, J, K], both writes' values by queries.
        v3: [B, J, I] of `PromptMaps.second`.
        up: [B, J, C] of `PromptMaps.second_up`.
    """

    tokens: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor
    folded: Tensor
    gram11: Tensor
    gram12: Tensor
    gram22: Tensor
    folded1: Tensor
    folded2: Tensor
    v3: Tensor
    up: Tensor


class PromptSide:
    """The three steps around the two blocks' work on image tokens.

    Args:
        transformer: segment_anything's, its weights in the operands' type.
        maps: of the model.
        asked: how many of the prompt tokens' outcomes are asked for, the first ones.
        slots: columns of a prompt's matrices are the first by H, those of the final queries the second by H;
            None: no slots, columns are in the order `head * T + token`.
        exponents: see `ImageSide`.
    """

    def __init__(
        self,
        transformer: TwoWayTransformer,
        maps: PromptMaps,
        asked: int,
        slots: tuple[int, int] | None,
        exponents: float = LOG2_E,
    ) -> None:
        self._first, self._second = transformer.layers
        self._last, self._last_norm = transformer.final_attn_token_to_image, transformer.norm_final_attn
        self._maps, self._asked, self._slots = maps, asked, slots
        write = self._first.cross_attn_image_to_token
        self._channels, self._internal = write.embedding_dim, write.internal_dim
        self._scale = query_scale(write, exponents)
        head = torch.arange(self._internal, device=maps.first.device) // (self._internal // write.num_heads)
        heads = torch.arange(write.num_heads, device=maps.first.device)
        self._of_head = (head == heads[:, None]).to(maps.first.dtype)

    def first(self, prompts: Tensor, image: ImageOperands) -> FirstPrompts:
        """Of prompts [B, T, C]: the first block, and the second one's self-attention."""
        layer = self._first
        x = layer.norm1(_self_attention(layer.self_attn, prompts, prompts))
        x = self._feed_forward(layer, x + self._shared_read(x + prompts, image))
        write, asked = layer.cross_attn_image_to_token, x + prompts
        keys, values = self._diagonal(write.k_proj(asked)), self._diagonal(write.v_proj(x))
        tokens = self._second.norm1(x + _self_attention(self._second.self_attn, asked, x))
        read = self._second.cross_attn_token_to_image
        queries = self._diagonal(read.q_proj(tokens + prompts) * self._scale)
        widths = 2 * [self._channels] + 5 * [self._internal]
        v1, w1, k2, v2, q2, k3, v3 = (values @ self._maps.first).split(widths, 2)
        gram, folded = torch.bmm(v1, v1.mT), torch.bmm(k2, queries.mT)
        up = values @ self._maps.first_up
        return FirstPrompts(tokens, keys, values, queries, gram, folded, w1, v2, q2, k3, v3, up)

    def second(self, prompts: Tensor, before: FirstPrompts, read: Tensor) -> SecondPrompts:
        """After the second block's read [B, T, I] of the image, its values' bias left out."""
        layer, maps = self._second, self._maps
        out = F.linear(
            read.to(prompts.dtype), layer.cross_attn_token_to_image.out_proj.weight, maps.read_bias
        )
        x = self._feed_forward(layer, before.tokens + out)
        write, asked = layer.cross_attn_image_to_token, x + prompts
        keys, values = self._diagonal(write.k_proj(asked) * self._scale), self._diagonal(write.v_proj(x))
        tokens = x[:, : self._asked]
        final = self._last.q_proj(asked[:, : self._asked]) * self._scale
        queries = self._diagonal(final, asked=True)
        rows = _affine(values, maps.second, maps.second_bias)
        up = _affine(values, maps.second_up, maps.second_up_bias)
        w1, (w2, k3, v3) = before.w1, rows.split([self._channels, self._internal, self._internal], 2)
        products = (
            torch.bmm(before.q2, keys.mT),
            torch.bmm(w1, w1.mT),
            2 * torch.bmm(w1, w2.mT),
            torch.bmm(w2, w2.mT),
            torch.bmm(before.k3, queries.mT),
            torch.bmm(k3, queries.mT),
        )
        return SecondPrompts(tokens, keys, values, queries, *products, v3, up)

    def hidden(self, tokens: Tensor, read: Tensor) -> Tensor:
        """Float32 [B, 4, C] after the final read [B, 4, I] of the image, its values' bias left out."""
        out = F.linear(read.to(tokens.dtype), self._last.out_proj.weight, self._maps.last_bias)
        hidden: Tensor = self._last_norm(tokens + out)
        return hidden.float()

    def _feed_forward(self, layer: TwoWayAttentionBlock, x: Tensor) -> Tensor:
        x = layer.norm2(x)
        out: Tensor = layer.norm3(x + layer.mlp(x))
        return out

    def _shared_read(self, asked: Tensor, image: ImageOperands) -> Tensor:
        """The first block's read, one attention over all prompts' tokens, [B, T, C]."""
        attention = self._first.cross_attn_token_to_image
        queries = (
            attention.q_proj(asked).flatten(0, 1).unflatten(1, (attention.num_heads, -1)).transpose(0, 1)
        )
        read = F.scaled_dot_product_attention(queries[None], image.keys[None], image.values[None])[0]
        out: Tensor = attention.out_proj(read.transpose(0, 1).flatten(1))
        return out.unflatten(0, asked.shape[:2])

    def _diagonal(self, x: Tensor, asked: bool = False) -> Tensor:
        """[B, T, I] as block-diagonal [B, J, I]: the row of a token and a head holds that head's channels."""
        if self._slots is None:
            return (x[:, None] * self._of_head[:, None]).flatten(1, 2)
        padded = F.pad(x, (0, 0, 0, self._slots[asked] - x.shape[1]))
        return (padded[:, :, None] * self._of_head).flatten(1, 2)


def _self_attention(attention: Attention, asked: Tensor, values: Tensor) -> Tensor:
    """segment_anything's `Attention` of tokens [B, T, C] to themselves."""
    projected = (attention.q_proj(asked), attention.k_proj(asked), attention.v_proj(values))
    q, k, v = (x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for x in projected)
    out: Tensor = attention.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return out


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, x.flatten(0, 1), weight).unflatten(0, x.shape[:2])
