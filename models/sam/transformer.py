"""The two-way transformer of SAM's decoder, with the projections of the image tokens folded.

segment_anything (1.0, `mask_decoder.py`, `transformer.py`) keeps a copy of the image tokens for every prompt
and projects all of them in each of five cross attentions. Here the projections of the image tokens are folded
into the few prompt tokens. With queries q_h = W_q x + b_q of head h,

    q_h . (W_k,h x + b_k) = (W_k,h^T q_h) . x + const
    sum_n a_n (W_v,h x_n + b_v) = W_v,h (sum_n a_n x_n) + b_v

where the constant is the same for all keys, so softmax cancels it, and the weights a_n sum to one. What does
not depend on the prompt (the first block's keys, values and queries of the image tokens) is computed once per
image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segray.models.precision import rounded
from segray.models.sam.upscaling import upscaling_weight

if TYPE_CHECKING:
    from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock

_CACHED_VALUES = 1 << 18
"""Values of image tokens that a CPU processes at a time (1,024 rows of 256: measured)."""

_Update = Callable[[slice, slice], Tensor]


class UpscalableTokens(Protocol):
    """The image tokens of B prompts after the transformer."""

    def up(self, added: Tensor, prompts: Tensor | None, rows: slice) -> Tensor:
        """The first transposed convolution of n tokens of P prompts, [P, n, C], a token's pixels adjacent.

        Args:
            added: to its products, [C] or [n, C]: its bias, with what SAM 2 adds.
            prompts: which, int64 [P]; None: all.
            rows: which tokens.
        """
        ...


@dataclass(frozen=True)
class ImageTokens:
    """What all prompts of one image share: N tokens with C channels, h heads with d channels each.

    Attributes:
        tokens: [N, C], image embedding plus "no mask" prompt.
        with_positions: [N, C], tokens plus positional encoding.
        keys, values: [h, N, d] for the first token-to-image attention.
        queries: [h, d, N] for the first image-to-token attention, already scaled.
    """

    tokens: Tensor
    with_positions: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor


@dataclass(frozen=True)
class FoldedTokens:
    """The image tokens [B, N, C] of B prompts.

    Attributes:
        weight: [C, C] of the first transposed convolution.
    """

    tokens: Tensor
    weight: Tensor

    def up(self, added: Tensor, prompts: Tensor | None, rows: slice) -> Tensor:
        """See `UpscalableTokens`."""
        tokens = self.tokens[:, rows]
        # index_select copies whole rows; tokens[prompts] would copy single values.
        tokens = tokens if prompts is None else tokens.index_select(0, prompts)
        added = added if added.ndim == 1 else added.repeat(len(tokens), 1)
        return torch.addmm(added, tokens.flatten(0, 1), self.weight).unflatten(0, tokens.shape[:2])


class FoldedTransformer:
    """The two-way transformer of a SAM's mask decoder, whose weights it reads and does not modify.

    Args:
        decoder: segment_anything's `MaskDecoder`.
        positions: float32 [N, C] of the prompt encoder.
        no_mask: float32 [1, C], the "no mask" prompt.
        dtype: of weights and tokens.
    """

    def __init__(self, decoder: Any, positions: Tensor, no_mask: Tensor, dtype: torch.dtype) -> None:
        transformer = rounded(decoder.transformer, dtype)
        self._first, *self._others = [Block(layer) for layer in transformer.layers]
        self._last = TokenToImageAttention(transformer.final_attn_token_to_image)
        self._last_norm = transformer.norm_final_attn
        self._positions, self._no_mask, self._dtype = positions.to(dtype), no_mask, dtype
        self._up = upscaling_weight(decoder.output_upscaling[0]).to(dtype)
        self._asked = decoder.num_mask_tokens

    def image(self, embedding: Tensor) -> ImageTokens:
        """Of a float32 embedding [C, h, w]."""
        # Contiguous, because the sum keeps the embedding's channel-first layout, which is slow to read.
        tokens = (embedding.flatten(1).T + self._no_mask).to(self._dtype).contiguous()
        with_positions = tokens + self._positions
        read, write = self._first.token_to_image, self._first.image_to_token
        return ImageTokens(
            tokens,
            with_positions,
            split_heads(read.k_proj(with_positions), read.heads).contiguous(),
            split_heads(read.v_proj(tokens), read.heads).contiguous(),
            (split_heads(write.q_proj(with_positions), write.heads) * write.scale).mT.contiguous(),
        )

    def __call__(self, image: ImageTokens, prompts: Tensor) -> tuple[Tensor, FoldedTokens]:
        """Float32 IoU and mask tokens [B, 4, C] of prompts [B, T, C], and their image tokens."""
        prompts = prompts.to(self._dtype)
        queries, tokens, with_positions = self._first.shared(prompts, image, self._positions)
        for block in self._others:
            queries, tokens, with_positions = block(queries, prompts, tokens, with_positions, self._positions)
        queries = queries[:, : self._asked]
        read = self._last(queries + prompts[:, : self._asked], tokens, with_positions)
        return self._last_norm(queries + read).float(), FoldedTokens(tokens, self._up)


class Block:
    """`segment_anything`'s `TwoWayAttentionBlock`."""

    def __init__(self, layer: TwoWayAttentionBlock) -> None:
        self._layer = layer
        self.token_to_image = TokenToImageAttention(layer.cross_attn_token_to_image)
        self.image_to_token = ImageToTokenAttention(layer.cross_attn_image_to_token)

    def __call__(
        self, queries: Tensor, prompts: Tensor, tokens: Tensor, with_positions: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt tokens [B, T, C] and image tokens [B, N, C] after the block, without and with positions.

        On a CPU the image tokens may be overwritten.
        """
        layer = self._layer
        inputs = queries + prompts
        queries = layer.norm1(queries + layer.self_attn(q=inputs, k=inputs, v=queries))
        queries = self._feed_forward(queries, self.token_to_image(queries + prompts, tokens, with_positions))
        update = self.image_to_token(queries + prompts, queries, tokens, with_positions)
        return queries, *self._updated(update, positions, tokens, with_positions)

    def shared(self, prompts: Tensor, image: ImageTokens, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the first block, where all prompts share the image tokens."""
        layer = self._layer
        queries = layer.norm1(layer.self_attn(q=prompts, k=prompts, v=prompts))
        queries = self._feed_forward(queries, self.token_to_image.shared(queries + prompts, image))
        update = self.image_to_token.shared(queries + prompts, queries, image)
        with_positions = positions.new_empty(len(prompts), *positions.shape)
        return queries, *self._updated(update, positions, None, with_positions)

    def _updated(
        self, update: _Update, positions: Tensor, tokens: Tensor | None, with_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Normalised update without and with positions.

        Overwrites `with_positions`, and on a CPU also `tokens`.
        """
        parts = list(_parts(with_positions))
        if len(parts) == 1:
            tokens = _norm(self._layer.norm4, update(*parts[0]))
            return tokens, torch.add(tokens, positions, out=with_positions)
        tokens = torch.empty_like(with_positions) if tokens is None else tokens
        for prompt, rows in parts:
            part = tokens[prompt, rows].copy_(_norm(self._layer.norm4, update(prompt, rows)))
            torch.add(part, positions[rows], out=with_positions[prompt, rows])
        return tokens, with_positions

    def _feed_forward(self, queries: Tensor, attended: Tensor) -> Tensor:
        queries = self._layer.norm2(queries + attended)
        out: Tensor = self._layer.norm3(queries + self._layer.mlp(queries))
        return out


class _CrossAttention:
    """Projections of a cross attention, split by head; shared by both directions."""

    def __init__(self, attention: Attention) -> None:
        self.heads = attention.num_heads
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.out_proj = attention.out_proj
        self.scale = 1 / math.sqrt(attention.internal_dim // self.heads)

    def by_head(self, weight: Tensor) -> Tensor:
        """Reshape [h d, C] to [h, d, C]."""
        return weight.unflatten(0, (self.heads, -1)).contiguous()


class TokenToImageAttention(_CrossAttention):
    """Prompt tokens attend to image tokens."""

    def __init__(self, attention: Attention) -> None:
        super().__init__(attention)
        self._key_weight = self.by_head(self.k_proj.weight)
        self._value_weight = self.by_head(self.v_proj.weight).mT.contiguous()

    def __call__(self, inputs: Tensor, tokens: Tensor, with_positions: Tensor) -> Tensor:
        """Attention output [B, T, C] over image tokens [B, N, C], without and with positions."""
        queries = split_heads(self.q_proj(inputs), self.heads) * self.scale
        folded = _project_heads(queries, self._key_weight).flatten(1, 2)
        # A single head over all folded queries, which are as wide as the image tokens.
        attended = F.scaled_dot_product_attention(
            folded[:, None], with_positions[:, None], tokens[:, None], scale=1.0
        )
        per_head = attended.unflatten(2, (self.heads, -1))[:, 0]
        return self._out(
            _project_heads(per_head, self._value_weight).transpose(1, 2).flatten(2) + self.v_proj.bias
        )

    def shared(self, inputs: Tensor, image: ImageTokens) -> Tensor:
        """The same if all prompts share the image tokens."""
        count, length, _ = inputs.shape
        queries = _stacked(split_heads(self.q_proj(inputs), self.heads) * self.scale)
        attended = torch.bmm(torch.bmm(queries, image.keys.mT).softmax(-1), image.values)
        return self._out(attended.unflatten(1, (count, length)).permute(1, 2, 0, 3).flatten(2))

    def _out(self, values: Tensor) -> Tensor:
        out: Tensor = self.out_proj(values)
        return out


class ImageToTokenAttention(_CrossAttention):
    """Image tokens attend to prompt tokens; the result includes the residual connection."""

    def __init__(self, attention: Attention) -> None:
        super().__init__(attention)
        self._query_weight = self.by_head(self.q_proj.weight)
        self._query_bias = self.q_proj.bias.unflatten(0, (self.heads, -1))[:, :, None].contiguous()
        self._out_weight = self.by_head(self.out_proj.weight.T)
        self._out_bias = self.out_proj.bias / self.heads

    def __call__(self, inputs: Tensor, queries: Tensor, tokens: Tensor, with_positions: Tensor) -> _Update:
        """A function that computes a slice of prompts and rows of the updated tokens [B, N, C]."""
        keys = split_heads(self.k_proj(inputs), self.heads) * self.scale
        folded, values = _project_heads(keys, self._query_weight).flatten(1, 2), self._values(queries)
        # A key bias would cancel in softmax; the query bias adds a different score for each prompt token.
        bias = _project_heads(keys, self._query_bias).flatten(1, 2)

        def update(batch: slice, rows: slice) -> Tensor:
            scores = torch.baddbmm(bias[batch], folded[batch], with_positions[batch, rows].mT)
            weights = scores.unflatten(1, (self.heads, -1)).softmax(2).flatten(1, 2)
            return torch.baddbmm(tokens[batch, rows], weights.mT, values[batch])

        return update

    def shared(self, inputs: Tensor, queries: Tensor, image: ImageTokens) -> _Update:
        """The same if all prompts share the image tokens."""
        keys, values = split_heads(self.k_proj(inputs), self.heads), self._values(queries)

        def update(batch: slice, rows: slice) -> Tensor:
            scores = torch.bmm(_stacked(keys[batch]), image.queries[:, :, rows])
            weights = scores.unflatten(1, (-1, keys.shape[2])).softmax(2).transpose(0, 1).flatten(1, 2)
            return torch.baddbmm(image.tokens[rows], weights.mT, values[batch])

        return update

    def _values(self, queries: Tensor) -> Tensor:
        """Values [B, h T, C]; each head carries 1 / h of the output bias, as its weights sum to one."""
        values = _project_heads(split_heads(self.v_proj(queries), self.heads), self._out_weight)
        return (values + self._out_bias).flatten(1, 2)


def items_in_cache(values: int) -> int:
    """How many items of `values` values each fit into a CPU's cache, at least one."""
    return max(1, _CACHED_VALUES // values)


def _parts(tokens: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of prompts and rows of [B, N, C] to update at a time; on a CPU some rows of one prompt."""
    count, length, width = tokens.shape
    step = items_in_cache(width)
    if tokens.device.type != "cpu" or length <= step or torch.compiler.is_compiling():
        yield slice(None), slice(None)
        return
    for prompt in range(count):
        yield from ((slice(prompt, prompt + 1), slice(row, row + step)) for row in range(0, length, step))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape [..., T, h d] to [..., h, T, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _stacked(x: Tensor) -> Tensor:
    """Reshape [B, h, T, d] to [h, B T, d]."""
    return x.transpose(0, 1).flatten(1, 2)


def _project_heads(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply [B, h, T, i] by one matrix per head [h, i, o]: [B, h, T, o]."""
    count, _, length, _ = x.shape
    product = torch.bmm(_stacked(x), weight)
    return product.unflatten(1, (count, length)).transpose(0, 1)


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    out: Tensor = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return out
