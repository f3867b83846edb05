"""The two-way transformer of SAM's decoder, with the projections of the picture's side folded.

See `models.sam.decoder` for the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_CACHED_VALUES = 1 << 18
"""Of the picture's tokens that a CPU reads, changes and writes at a time (1,024 rows of 256: measured)."""

_Write = Callable[[slice, slice], Tensor]


@dataclass(frozen=True)
class ImageTokens:
    """What all prompts of one picture share, of N tokens with C channels and h heads of d channels.

    Attributes:
        tokens: [N, C], embedding and "no mask" prompt.
        placed: [N, C], with their positions added.
        keys, values: [h, N, d] for the first token-to-image attention.
        queries: [h, d, N] for the first image-to-token attention, scaled.
    """

    tokens: Tensor
    placed: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor


class Block:
    """`TwoWayAttentionBlock`."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.read = Read(layer.cross_attn_token_to_image)
        self.write = Write(layer.cross_attn_image_to_token)

    def __call__(
        self, queries: Tensor, prompts: Tensor, tokens: Tensor, placed: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt tokens [B, T, C] and picture tokens [B, N, C] after the block, without and with positions.

        On a CPU the picture tokens may be written over.
        """
        layer = self._layer
        asked = queries + prompts
        queries = layer.norm1(queries + layer.self_attn(q=asked, k=asked, v=queries))
        queries = self._think(queries, self.read(queries + prompts, tokens, placed))
        write = self.write(queries + prompts, queries, tokens, placed)
        return queries, *self._written(write, positions, tokens, placed)

    def shared(
        self, prompts: Tensor, picture: ImageTokens, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The first block, whose picture tokens are the same for all prompts."""
        layer = self._layer
        queries = layer.norm1(layer.self_attn(q=prompts, k=prompts, v=prompts))
        queries = self._think(queries, self.read.shared(queries + prompts, picture))
        write = self.write.shared(queries + prompts, queries, picture)
        placed = positions.new_empty(len(prompts), *positions.shape)
        return queries, *self._written(write, positions, None, placed)

    def _written(
        self, write: _Write, positions: Tensor, tokens: Tensor | None, placed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is written, normed, without and with positions; over `placed`, and on a CPU over `tokens`."""
        parts = list(_parts(placed))
        if len(parts) == 1:
            tokens = _norm(self._layer.norm4, write(*parts[0]))
            return tokens, torch.add(tokens, positions, out=placed)
        tokens = torch.empty_like(placed) if tokens is None else tokens
        for prompt, rows in parts:
            part = tokens[prompt, rows].copy_(_norm(self._layer.norm4, write(prompt, rows)))
            torch.add(part, positions[rows], out=placed[prompt, rows])
        return tokens, placed

    def _think(self, queries: Tensor, read: Tensor) -> Tensor:
        queries = self._layer.norm2(queries + read)
        out: Tensor = self._layer.norm3(queries + self._layer.mlp(queries))
        return out


class _Cross:
    """What both directions of cross attention have: the projections by head."""

    def __init__(self, attention: Any) -> None:
        self.heads = attention.num_heads
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.out_proj = attention.out_proj
        self.scale = 1 / math.sqrt(attention.internal_dim // self.heads)

    def by_head(self, weight: Tensor) -> Tensor:
        """[h d, C] as [h, d, C]."""
        return weight.unflatten(0, (self.heads, -1)).contiguous()


class Read(_Cross):
    """Prompt tokens attend to the picture's."""

    def __init__(self, attention: Any) -> None:
        super().__init__(attention)
        self._key_weight = self.by_head(self.k_proj.weight)
        self._value_weight = self.by_head(self.v_proj.weight).mT.contiguous()

    def __call__(self, asked: Tensor, tokens: Tensor, placed: Tensor) -> Tensor:
        """[B, T, C] of tokens and placed [B, N, C]."""
        queries = by_heads(self.q_proj(asked), self.heads) * self.scale
        folded = _by_head(queries, self._key_weight).flatten(1, 2)
        # One head of all rows: folded queries and values are as wide as the tokens.
        attended = F.scaled_dot_product_attention(
            folded[:, None], placed[:, None], tokens[:, None], scale=1.0
        )
        read = attended.unflatten(2, (self.heads, -1))[:, 0]
        return self._out(_by_head(read, self._value_weight).transpose(1, 2).flatten(2) + self.v_proj.bias)

    def shared(self, asked: Tensor, picture: ImageTokens) -> Tensor:
        """The same where all prompts see the same tokens."""
        count, length, _ = asked.shape
        queries = _stacked(by_heads(self.q_proj(asked), self.heads) * self.scale)
        read = torch.bmm(torch.bmm(queries, picture.keys.mT).softmax(-1), picture.values)
        return self._out(read.unflatten(1, (count, length)).permute(1, 2, 0, 3).flatten(2))

    def _out(self, values: Tensor) -> Tensor:
        out: Tensor = self.out_proj(values)
        return out


class Write(_Cross):
    """The picture's tokens attend to the prompt's; returns their sum with what they were."""

    def __init__(self, attention: Any) -> None:
        super().__init__(attention)
        self._query_weight = self.by_head(self.q_proj.weight)
        self._query_bias = self.q_proj.bias.unflatten(0, (self.heads, -1))[:, :, None].contiguous()
        self._out_weight = self.by_head(self.out_proj.weight.T)
        self._out_bias = self.out_proj.bias / self.heads

    def __call__(self, asked: Tensor, queries: Tensor, tokens: Tensor, placed: Tensor) -> _Write:
        """A function of prompts and rows of [B, N, C]."""
        keys = by_heads(self.k_proj(asked), self.heads) * self.scale
        folded, values = _by_head(keys, self._query_weight).flatten(1, 2), self._values(queries)
        # Unlike a key's bias, a query's differs from prompt token to prompt token.
        bias = _by_head(keys, self._query_bias).flatten(1, 2)

        def write(some: slice, rows: slice) -> Tensor:
            scores = torch.baddbmm(bias[some], folded[some], placed[some, rows].mT)
            weights = scores.unflatten(1, (self.heads, -1)).softmax(2).flatten(1, 2)
            return torch.baddbmm(tokens[some, rows], weights.mT, values[some])

        return write

    def shared(self, asked: Tensor, queries: Tensor, picture: ImageTokens) -> _Write:
        """The same where all prompts write to the same tokens."""
        keys, values = by_heads(self.k_proj(asked), self.heads), self._values(queries)

        def write(some: slice, rows: slice) -> Tensor:
            scores = torch.bmm(_stacked(keys[some]), picture.queries[:, :, rows])
            weights = scores.unflatten(1, (-1, keys.shape[2])).softmax(2).transpose(0, 1).flatten(1, 2)
            return torch.baddbmm(picture.tokens[rows], weights.mT, values[some])

        return write

    def _values(self, queries: Tensor) -> Tensor:
        """[B, h T, C], with the output's bias shared out over the heads, whose weights each sum to one."""
        values = _by_head(by_heads(self.v_proj(queries), self.heads), self._out_weight)
        return (values + self._out_bias).flatten(1, 2)


def at_a_time(values: int) -> int:
    """How many things of so many values a CPU computes at a time: what its cache holds, at least one."""
    return max(1, _CACHED_VALUES // values)


def _parts(tokens: Tensor) -> Iterator[tuple[slice, slice]]:
    """Prompts and rows of [B, N, C] to write at a time: all, or on a CPU some rows of one prompt."""
    count, length, width = tokens.shape
    step = at_a_time(width)
    if tokens.device.type != "cpu" or length <= step or torch.compiler.is_compiling():
        yield slice(None), slice(None)
        return
    for prompt in range(count):
        yield from ((slice(prompt, prompt + 1), slice(row, row + step)) for row in range(0, length, step))


def by_heads(x: Tensor, heads: int) -> Tensor:
    """[..., T, h d] as [..., h, T, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _stacked(x: Tensor) -> Tensor:
    """[B, h, T, d] as [h, B T, d]."""
    return x.transpose(0, 1).flatten(1, 2)


def _by_head(x: Tensor, weight: Tensor) -> Tensor:
    """[B, h, T, i] by a matrix [h, i, o] of each head: [B, h, T, o]."""
    count, _, length, _ = x.shape
    product = torch.bmm(_stacked(x), weight)
    return product.unflatten(1, (count, length)).transpose(0, 1)


def _norm(norm: Any, x: Tensor) -> Tensor:
    out: Tensor = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return out
