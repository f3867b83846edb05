"""SAM's mask decoder for many prompts of one picture: the same function, several times cheaper.

segment_anything (1.0, `mask_decoder.py`, `transformer.py`) carries a copy of the picture's tokens for every
prompt and projects all of them in each of five cross attentions. Here the projections of the picture's side
are folded into the few rows of the prompt's side: with queries q_h = W_q x + b_q of head h,

    q_h . (W_k,h x + b_k) = (W_k,h^T q_h) . x + const
    sum_n a_n (W_v,h x_n + b_v) = W_v,h (sum_n a_n x_n) + b_v

where the constant is the same for all keys, so that softmax drops it, and the weights a_n sum to one. What
does not depend on the prompt (the first block's keys, values and queries of the picture) is computed once a
picture. The predicted IoU comes before the upscaling, which only prompts with a mask above the threshold go
through. Nothing is approximated; sums are taken in another order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PictureTokens:
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


class MaskDecoder:
    """The decoder of a `segment_anything.modeling.Sam`, whose weights it reads and leaves as they are.

    Args:
        sam: the model, on its device; weights that change later are not seen.

    Raises:
        ValueError: a first block unlike that of the released models.
    """

    def __init__(self, sam: Any) -> None:
        decoder, self._prompts = sam.mask_decoder, sam.prompt_encoder
        transformer = decoder.transformer
        if not transformer.layers[0].skip_first_layer_pe:
            raise ValueError("the first block's skip_first_layer_pe is false, which no released SAM has")
        self._first, *self._others = [_Block(layer) for layer in transformer.layers]
        self._last = _Read(transformer.final_attn_token_to_image)
        self._last_norm = transformer.norm_final_attn
        self._output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        self._iou_head = decoder.iou_prediction_head
        self._hyper = decoder.output_hypernetworks_mlps
        self._upscale = _Upscaling(decoder.output_upscaling)
        self._positions = self._prompts.get_dense_pe()[0].flatten(1).T.contiguous()
        self._no_mask = self._prompts.no_mask_embed.weight
        self._side = self._prompts.image_embedding_size

    def picture(self, embedding: Tensor) -> PictureTokens:
        """What the prompts of a picture share, from its embedding [C, h, w]."""
        tokens = embedding.flatten(1).T + self._no_mask
        placed = tokens + self._positions
        read, write = self._first.read, self._first.write
        return PictureTokens(
            tokens,
            placed,
            _heads(read.k_proj(placed), read.heads).contiguous(),
            _heads(read.v_proj(tokens), read.heads).contiguous(),
            (_heads(write.q_proj(placed), write.heads) * write.scale).mT.contiguous(),
        )

    def __call__(
        self, picture: PictureTokens, points: Tensor, threshold: float, rows: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The masks with a predicted IoU above the threshold (all of them where it is not positive).

        Args:
            picture: of `picture`.
            points: [B, 2] as (x, y) in pixels of the model's input; float64, as upstream rounds late.
            threshold: pred_iou_thresh.
            rows: of the h rows of tokens those that are needed, the first ones; the others' logits are zero.

        Returns:
            Logits [K, 4h, 4w], the predicted IoU [K] and the prompt [K] of each mask, in the order of
            prompts and of a prompt's three masks.
        """
        hidden, tokens = self._transform(picture, self._embed(points))
        iou = self._iou_head(hidden[:, 0])[:, 1:]
        keep = iou > threshold if threshold > 0 else torch.ones_like(iou, dtype=torch.bool)
        passing = keep.any(1).nonzero()[:, 0]
        width = self._side[1]
        up = self._upscale(tokens[passing, : rows * width], rows, width)
        masks = [mlp(hidden[passing, 1 + k]) for k, mlp in enumerate(self._hyper) if k]
        # [P, 3, c] by [P, 16 rows w, c]
        logits = torch.bmm(torch.stack(masks, 1), up.mT)
        logits = _in_rows(logits.flatten(0, 1)[keep[passing].flatten()], rows, width)
        unseen = 4 * (self._side[0] - rows)
        return F.pad(logits, (0, 0, 0, unseen)), iou[keep], keep.nonzero()[:, 0]

    def _embed(self, points: Tensor) -> Tensor:
        """Tokens [B, T, C] of the prompts: those of the output, then the point and its padding."""
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse, _ = self._prompts(points=(points[:, None], labels), boxes=None, masks=None)
        return torch.cat([self._output_tokens.expand(len(points), -1, -1), sparse], 1)

    def _transform(self, picture: PictureTokens, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """The two-way transformer: prompt tokens [B, T, C] and picture tokens [B, N, C] after it."""
        queries, tokens = self._first.shared(prompts, picture)
        placed = tokens + self._positions
        for block in self._others:
            queries, tokens = block(queries, prompts, tokens, placed)
            torch.add(tokens, self._positions, out=placed)
        read = self._last(queries + prompts, tokens, placed)
        return self._last_norm(queries + read), tokens


class _Block:
    """`TwoWayAttentionBlock`."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.read = _Read(layer.cross_attn_token_to_image)
        self.write = _Write(layer.cross_attn_image_to_token)

    def __call__(
        self, queries: Tensor, prompts: Tensor, tokens: Tensor, placed: Tensor
    ) -> tuple[Tensor, Tensor]:
        layer = self._layer
        asked = queries + prompts
        queries = layer.norm1(queries + layer.self_attn(q=asked, k=asked, v=queries))
        queries = self._think(queries, self.read(queries + prompts, tokens, placed))
        return queries, _norm(layer.norm4, self.write(queries + prompts, queries, tokens, placed))

    def shared(self, prompts: Tensor, picture: PictureTokens) -> tuple[Tensor, Tensor]:
        """The first block, whose picture tokens are the same for all prompts."""
        layer = self._layer
        queries = layer.norm1(layer.self_attn(q=prompts, k=prompts, v=prompts))
        queries = self._think(queries, self.read.shared(queries + prompts, picture))
        return queries, _norm(layer.norm4, self.write.shared(queries + prompts, queries, picture))

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


class _Read(_Cross):
    """Prompt tokens attend to the picture's."""

    def __init__(self, attention: Any) -> None:
        super().__init__(attention)
        self._key_weight = self.by_head(self.k_proj.weight)
        self._value_weight = self.by_head(self.v_proj.weight).mT.contiguous()

    def __call__(self, asked: Tensor, tokens: Tensor, placed: Tensor) -> Tensor:
        """[B, T, C] of tokens and placed [B, N, C]."""
        queries = _heads(self.q_proj(asked), self.heads) * self.scale
        folded = _by_head(queries, self._key_weight)
        weights = torch.bmm(folded.flatten(1, 2), placed.mT).softmax(-1)
        read = torch.bmm(weights, tokens).unflatten(1, (self.heads, -1))
        return self._out(_by_head(read, self._value_weight).transpose(1, 2).flatten(2) + self.v_proj.bias)

    def shared(self, asked: Tensor, picture: PictureTokens) -> Tensor:
        """The same where all prompts see the same tokens."""
        count, length, _ = asked.shape
        queries = _stacked(_heads(self.q_proj(asked), self.heads) * self.scale)
        read = torch.bmm(torch.bmm(queries, picture.keys.mT).softmax(-1), picture.values)
        return self._out(read.unflatten(1, (count, length)).permute(1, 2, 0, 3).flatten(2))

    def _out(self, values: Tensor) -> Tensor:
        out: Tensor = self.out_proj(values)
        return out


class _Write(_Cross):
    """The picture's tokens attend to the prompt's; returns their sum with what they were."""

    def __init__(self, attention: Any) -> None:
        super().__init__(attention)
        self._query_weight = self.by_head(self.q_proj.weight)
        self._query_bias = self.q_proj.bias.unflatten(0, (self.heads, -1))[:, :, None].contiguous()
        self._out_weight = self.by_head(self.out_proj.weight.T)
        self._out_bias = self.out_proj.bias / self.heads

    def __call__(self, asked: Tensor, queries: Tensor, tokens: Tensor, placed: Tensor) -> Tensor:
        """[B, N, C]."""
        keys = _heads(self.k_proj(asked), self.heads) * self.scale
        folded = _by_head(keys, self._query_weight).flatten(1, 2)
        # Unlike a key's bias, a query's differs from prompt token to prompt token.
        bias = _by_head(keys, self._query_bias).flatten(1, 2)
        scores = torch.baddbmm(bias, folded, placed.mT).unflatten(1, (self.heads, -1))
        return torch.baddbmm(tokens, scores.softmax(2).flatten(1, 2).mT, self._values(queries))

    def shared(self, asked: Tensor, queries: Tensor, picture: PictureTokens) -> Tensor:
        """The same where all prompts write to the same tokens."""
        count, length, _ = asked.shape
        keys = _stacked(_heads(self.k_proj(asked), self.heads))
        scores = torch.bmm(keys, picture.queries).unflatten(1, (count, length))
        weights = scores.softmax(2).transpose(0, 1).flatten(1, 2)
        return torch.baddbmm(picture.tokens, weights.mT, self._values(queries))

    def _values(self, queries: Tensor) -> Tensor:
        """[B, h T, C], with the output's bias shared out over the heads, whose weights each sum to one."""
        values = _by_head(_heads(self.v_proj(queries), self.heads), self._out_weight)
        return (values + self._out_bias).flatten(1, 2)


class _Upscaling:
    """`output_upscaling` on tokens as they lie: transposed convolutions that do not overlap are products."""

    def __init__(self, layers: Any) -> None:
        first, self._norm, self._act, second, _ = layers
        self._weights = [conv.weight.permute(0, 2, 3, 1).flatten(1).contiguous() for conv in (first, second)]
        self._biases = [conv.bias.repeat(4) for conv in (first, second)]

    def __call__(self, tokens: Tensor, rows: int, width: int) -> Tensor:
        """[P, rows w, C] to [P, 16 rows w, C / 8], the 4 x 4 pixels of each token together."""
        up = torch.addmm(self._biases[0], tokens.reshape(-1, tokens.shape[-1]), self._weights[0])
        up = up.unflatten(1, (4, -1))
        up = self._act(F.layer_norm(up, up.shape[-1:], self._norm.weight, self._norm.bias, self._norm.eps))
        up = self._act(torch.addmm(self._biases[1], up.flatten(0, 1), self._weights[1]))
        return up.view(len(tokens), 16 * rows * width, up.shape[1] // 4)


def _in_rows(logits: Tensor, rows: int, width: int) -> Tensor:
    """[K, 16 rows w] of 4 x 4 pixels a token, in two levels of 2 x 2, as [K, 4 rows, 4w]."""
    pixels = logits.view(-1, rows, width, 2, 2, 2, 2)
    return pixels.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * rows, 4 * width)


def _heads(x: Tensor, heads: int) -> Tensor:
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
