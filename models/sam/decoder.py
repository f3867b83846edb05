"""SAM's mask decoder for many prompts of one image: the same function, several times cheaper.

segment_anything (1.0, `mask_decoder.py`, `transformer.py`) keeps a copy of the image tokens for every prompt
and projects all of them in each of five cross attentions. Here the projections of the image tokens are folded
into the few prompt tokens. With queries q_h = W_q x + b_q of head h,

    q_h . (W_k,h x + b_k) = (W_k,h^T q_h) . x + const
    sum_n a_n (W_v,h x_n + b_v) = W_v,h (sum_n a_n x_n) + b_v

where the constant is the same for all keys, so softmax cancels it, and the weights a_n sum to one. What does
not depend on the prompt (the first block's keys, values and queries of the image tokens) is computed once per
image. The predicted IoU is computed first; only prompts with a mask above the threshold are upscaled. Nothing
is approximated, only the order of summation differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from segray.models.precision import rounded
from segray.models.sam.transformer import (
    Block,
    ImageTokens,
    TokenToImageAttention,
    items_in_cache,
    split_heads,
)


class HasHeads(Protocol):
    """What is read of a `segment_anything.modeling.Sam`."""

    mask_decoder: Any
    prompt_encoder: Any


class MaskDecoder:
    """The decoder of a `segment_anything.modeling.Sam`, whose weights it reads and does not modify.

    Args:
        sam: the model, on its device; later changes of its weights have no effect here.
        dtype: of the transformer and the upscaling. The prompt embedding, the predicted IoU and the product
            that yields the logits stay in float32, because rounding them would change which masks are kept.

    Raises:
        ValueError: the first block differs from that of the released models.
    """

    def __init__(self, sam: HasHeads, dtype: torch.dtype = torch.float32) -> None:
        decoder, self._prompts = sam.mask_decoder, sam.prompt_encoder
        transformer = rounded(decoder.transformer, dtype)
        if not transformer.layers[0].skip_first_layer_pe:
            raise ValueError("the first block's skip_first_layer_pe is false, which no released SAM has")
        self._first, *self._others = [Block(layer) for layer in transformer.layers]
        self._last = TokenToImageAttention(transformer.final_attn_token_to_image)
        self._last_norm = transformer.norm_final_attn
        single, several = decoder.mask_tokens.weight.split([1, decoder.num_mask_tokens - 1])
        # The single-mask token comes last: its output is never used.
        self._output_tokens = torch.cat([decoder.iou_token.weight, several, single])
        self._used_tokens = 1 + len(several)
        self._iou_head = decoder.iou_prediction_head
        self._hyper = decoder.output_hypernetworks_mlps
        self._upscale = Upscaling(rounded(decoder.output_upscaling, dtype))
        self._positions = self._prompts.get_dense_pe()[0].flatten(1).T.contiguous().to(dtype)
        self._no_mask = self._prompts.no_mask_embed.weight
        self._side = self._prompts.image_embedding_size
        self._dtype = dtype

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens; logits have four times as many of each."""
        return self._side[0], self._side[1]

    def image_tokens(self, embedding: Tensor) -> ImageTokens:
        """Compute what all prompts of an image share, from its float32 embedding [C, h, w]."""
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

    def __call__(
        self, image: ImageTokens, points: Tensor, threshold: float, rows: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The masks with a predicted IoU above the threshold; all masks if the threshold is 0 or less.

        Args:
            image: from `image_tokens`.
            points: [B, 2] as (x, y) in pixels of the model's input; float64, because upstream rounds late.
            threshold: of the predicted IoU.
            rows: number of rows of image tokens that are needed, from the top; logits of the others are 0.

        Returns:
            Logits [K, 4h, 4w], the predicted IoU [K] and the prompt index [K] of each mask, ordered
            by prompt, then by mask.
        """
        hidden, tokens = self._transform(image, self.prompts(points))
        iou = self._iou_head(hidden[:, 0])[:, 1:]
        keep = confident(iou, threshold)
        confident_prompts = keep.any(1).nonzero()[:, 0]
        if not len(confident_prompts):
            return hidden.new_empty(0, *(4 * side for side in self.grid)), iou[keep], confident_prompts
        chunks = list(self._chunked_logits(image, hidden, tokens, confident_prompts, rows))
        logits = torch.cat(chunks).flatten(0, 1)
        index = keep[confident_prompts].flatten().nonzero()[:, 0]
        logits = _in_rows(logits.index_select(0, index), rows, self._side[1])
        padding = 4 * (self._side[0] - rows)
        return F.pad(logits, (0, 0, 0, padding)), iou[keep], keep.nonzero()[:, 0]

    def all_masks(self, image: ImageTokens, prompts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Every mask of every prompt. No shape depends on a value, so the host never waits for a GPU.

        Args:
            image: from `image_tokens`.
            prompts: [B, T, C], from `prompts`.
            rows: number of rows of image tokens to decode, from the top.

        Returns:
            Logits [B, 3, 4 rows, 4w] and the predicted IoU [B, 3].
        """
        hidden, tokens = self._transform(image, prompts)
        tokens = tokens[:, : rows * self._side[1]]
        logits = self._logits(image, self._weights(hidden), tokens).flatten(0, 1)
        masks = _in_rows(logits, rows, self._side[1]).unflatten(0, (len(prompts), 3))
        return masks, self._iou_head(hidden[:, 0])[:, 1:]

    def prompts(self, points: Tensor) -> Tensor:
        """Tokens [B, T, C] of prompts [B, 2]: IoU, three masks, single mask, the point and its padding.

        Equal to the prompt encoder's output for foreground points. Its own code reads the values of the
        labels, for which the host would have to wait.
        """
        size, encoder = self._prompts.input_image_size, self._prompts
        with_positions = encoder.pe_layer.forward_with_coords(points[:, None] + 0.5, size)
        sparse = [with_positions + encoder.point_embeddings[1].weight, encoder.not_a_point_embed.weight]
        return torch.cat([part.expand(len(points), -1, -1) for part in (self._output_tokens, *sparse)], 1)

    def _transform(self, image: ImageTokens, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """The two-way transformer: float32 IoU and mask tokens [B, 4, C], image tokens [B, N, C]."""
        prompts = prompts.to(self._dtype)
        queries, tokens, with_positions = self._first.shared(prompts, image, self._positions)
        for block in self._others:
            queries, tokens, with_positions = block(queries, prompts, tokens, with_positions, self._positions)
        queries = queries[:, : self._used_tokens]
        read = self._last(queries + prompts[:, : self._used_tokens], tokens, with_positions)
        return self._last_norm(queries + read).float(), tokens

    def _chunked_logits(
        self, image: ImageTokens, hidden: Tensor, tokens: Tensor, confident_prompts: Tensor, rows: int
    ) -> Iterator[Tensor]:
        """`_logits` of the confident prompts, in chunks that fit a CPU's cache."""
        width, channels = self._side[1], tokens.shape[-1]
        step = width * items_in_cache(width * channels)
        for part in confident_prompts.split(items_in_cache(rows * width * channels)):
            # index_select copies whole rows; tokens[part] would copy single values.
            selected = tokens[:, : rows * width].index_select(0, part)
            weights = self._weights(hidden[part])
            bands = enumerate(selected.split(step, 1))
            yield torch.cat([self._logits(image, weights, band, k * step) for k, band in bands], 2)

    def _weights(self, hidden: Tensor) -> Tensor:
        """Weights [P, 3, C / 8] of the upscaled channels in each mask, from hidden [P, 4, C]."""
        return torch.stack([mlp(hidden[:, k]) for k, mlp in enumerate(self._hyper) if k], 1)

    def _logits(self, image: ImageTokens, weights: Tensor, tokens: Tensor, first: int = 0) -> Tensor:
        """Logits [P, 3, 16 n] of tokens [P, n, C] from `first` on; a token's 4 x 4 pixels are adjacent."""
        return torch.bmm(weights, self._upscaled(image, tokens, first).float().mT)

    def _upscaled(self, image: ImageTokens, tokens: Tensor, first: int) -> Tensor:  # noqa: ARG002  SAM 2 adds to it
        """[P, 16 n, C / 8] of tokens [P, n, C], the image's from `first` on."""
        return self._upscale(tokens)


class Upscaling:
    """`output_upscaling` on tokens: transposed convolutions without overlap are matrix products."""

    def __init__(self, layers: Any) -> None:
        first, self._norm, self._act, second, _ = layers
        self._weights = [conv.weight.permute(0, 2, 3, 1).flatten(1).contiguous() for conv in (first, second)]
        self.biases = [conv.bias.repeat(4) for conv in (first, second)]

    def __call__(self, tokens: Tensor, added: Sequence[Tensor] | None = None) -> Tensor:
        """[P, N, C] to [P, 16 N, C / 8]; the 4 x 4 pixels of a token are adjacent.

        Args:
            tokens: image tokens of each prompt.
            added: to the products, for each row of both, [P N, C] and [4 P N, C / 2]; None: the biases.
        """
        first, second = added or self.biases
        up = torch.addmm(first, tokens.reshape(-1, tokens.shape[-1]), self._weights[0])
        up = up.unflatten(1, (4, -1))
        up = self._act(F.layer_norm(up, up.shape[-1:], self._norm.weight, self._norm.bias, self._norm.eps))
        up = self._act(torch.addmm(second, up.flatten(0, 1), self._weights[1]))
        return up.view(len(tokens), 16 * tokens.shape[1], up.shape[1] // 4)


def confident(iou: Tensor, threshold: float) -> Tensor:
    """Which predicted IoUs are above the threshold; all if the threshold is 0 or less."""
    return iou > threshold if threshold > 0 else torch.ones_like(iou, dtype=torch.bool)


def _in_rows(logits: Tensor, rows: int, width: int) -> Tensor:
    """Reorder [K, 16 rows w], 4 x 4 pixels per token in two levels of 2 x 2, to [K, 4 rows, 4w]."""
    # Two neighbours in a row are adjacent before and after, so they move as one 64-bit value.
    pairs = logits.view(torch.int64).view(len(logits), rows, width, 2, 2, 2)
    in_rows = pairs.permute(0, 1, 3, 5, 2, 4).reshape(len(logits), 4 * rows, 2 * width)
    return in_rows.view(torch.float32)
