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

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segray.models.precision import rounded
from segray.models.sam.transformer import Block, ImageTokens, Read, at_a_time, by_heads


class MaskDecoder:
    """The decoder of a `segment_anything.modeling.Sam`, whose weights it reads and leaves as they are.

    Args:
        sam: the model, on its device; weights that change later are not seen.
        dtype: of the transformer and the upscaling. The embedding of prompts, the predicted IoU and the
            product that makes logits stay in float32: a mask's decisions hang on their last digits.

    Raises:
        ValueError: a first block unlike that of the released models.
    """

    def __init__(self, sam: Any, dtype: torch.dtype = torch.float32) -> None:
        decoder, self._prompts = sam.mask_decoder, sam.prompt_encoder
        transformer = rounded(decoder.transformer, dtype)
        if not transformer.layers[0].skip_first_layer_pe:
            raise ValueError("the first block's skip_first_layer_pe is false, which no released SAM has")
        self._first, *self._others = [Block(layer) for layer in transformer.layers]
        self._last = Read(transformer.final_attn_token_to_image)
        self._last_norm = transformer.norm_final_attn
        single, several = decoder.mask_tokens.weight.split([1, decoder.num_mask_tokens - 1])
        # First those whose outcome is asked for: that of the single mask is not.
        self._output_tokens = torch.cat([decoder.iou_token.weight, several, single])
        self._asked = 1 + len(several)
        self._iou_head = decoder.iou_prediction_head
        self._hyper = decoder.output_hypernetworks_mlps
        self._upscale = _Upscaling(rounded(decoder.output_upscaling, dtype))
        self._positions = self._prompts.get_dense_pe()[0].flatten(1).T.contiguous().to(dtype)
        self._no_mask = self._prompts.no_mask_embed.weight
        self._side = self._prompts.image_embedding_size
        self._dtype = dtype

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens over the model's input; logits have four times as many."""
        return self._side[0], self._side[1]

    def picture(self, embedding: Tensor) -> ImageTokens:
        """What the prompts of a picture share, from its float32 embedding [C, h, w]."""
        # The sum lies channel by channel, as the embedding does: a slow copy for every prompt.
        tokens = (embedding.flatten(1).T + self._no_mask).to(self._dtype).contiguous()
        placed = tokens + self._positions
        read, write = self._first.read, self._first.write
        return ImageTokens(
            tokens,
            placed,
            by_heads(read.k_proj(placed), read.heads).contiguous(),
            by_heads(read.v_proj(tokens), read.heads).contiguous(),
            (by_heads(write.q_proj(placed), write.heads) * write.scale).mT.contiguous(),
        )

    def __call__(
        self, picture: ImageTokens, points: Tensor, threshold: float, rows: int
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
        hidden, tokens = self._transform(picture, self.prompts(points))
        iou = self._iou_head(hidden[:, 0])[:, 1:]
        keep = confident(iou, threshold)
        passing = keep.any(1).nonzero()[:, 0]
        if not len(passing):
            return hidden.new_empty(0, *(4 * side for side in self.grid)), iou[keep], passing
        logits = torch.cat(list(self._of_some(hidden, tokens, passing, rows))).flatten(0, 1)
        kept = keep[passing].flatten().nonzero()[:, 0]
        logits = _in_rows(logits.index_select(0, kept), rows, self._side[1])
        unseen = 4 * (self._side[0] - rows)
        return F.pad(logits, (0, 0, 0, unseen)), iou[keep], keep.nonzero()[:, 0]

    def all_masks(self, picture: ImageTokens, prompts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Every mask of every prompt: no shape depends on a value, so that a GPU need not be waited for.

        Args:
            picture: of `picture`.
            prompts: [B, T, C] of `prompts`.
            rows: as above.

        Returns:
            Logits [B, 3, 4 rows, 4w] and the predicted IoU [B, 3].
        """
        hidden, tokens = self._transform(picture, prompts)
        logits = self._logits(self._weights(hidden), tokens[:, : rows * self._side[1]]).flatten(0, 1)
        masks = _in_rows(logits, rows, self._side[1]).unflatten(0, (len(prompts), 3))
        return masks, self._iou_head(hidden[:, 0])[:, 1:]

    def prompts(self, points: Tensor) -> Tensor:
        """Tokens [B, T, C] of prompts [B, 2]: IoU, three masks, single mask, the point and its padding.

        As the prompt encoder for a point of the foreground, whose own way asks for the values of its labels.
        """
        size, encoder = self._prompts.input_image_size, self._prompts
        placed = encoder.pe_layer.forward_with_coords(points[:, None] + 0.5, size)
        sparse = [placed + encoder.point_embeddings[1].weight, encoder.not_a_point_embed.weight]
        return torch.cat([part.expand(len(points), -1, -1) for part in (self._output_tokens, *sparse)], 1)

    def _transform(self, picture: ImageTokens, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """The two-way transformer: float32 tokens [B, 4, C] of IoU and masks, picture tokens [B, N, C]."""
        prompts = prompts.to(self._dtype)
        queries, tokens, placed = self._first.shared(prompts, picture, self._positions)
        for block in self._others:
            queries, tokens, placed = block(queries, prompts, tokens, placed, self._positions)
        queries = queries[:, : self._asked]
        read = self._last(queries + prompts[:, : self._asked], tokens, placed)
        return self._last_norm(queries + read).float(), tokens

    def _of_some(self, hidden: Tensor, tokens: Tensor, passing: Tensor, rows: int) -> Iterator[Tensor]:
        """Logits as `_logits` has them of the passing prompts, computed by what a CPU's cache holds."""
        width, channels = self._side[1], tokens.shape[-1]
        step = width * at_a_time(width * channels)
        for part in passing.split(at_a_time(rows * width * channels)):
            # Not tokens[part]: that copies value by value, this row by row.
            seen = tokens[:, : rows * width].index_select(0, part)
            weights = self._weights(hidden[part])
            yield torch.cat([self._logits(weights, band) for band in seen.split(step, 1)], 2)

    def _weights(self, hidden: Tensor) -> Tensor:
        """[P, 3, C / 8] of hidden [P, 4, C]: what the upscaled channels count for in each mask."""
        return torch.stack([mlp(hidden[:, k]) for k, mlp in enumerate(self._hyper) if k], 1)

    def _logits(self, weights: Tensor, tokens: Tensor) -> Tensor:
        """[P, 3, 16 N] of tokens [P, N, C], the 4 x 4 pixels of each together."""
        return torch.bmm(weights, self._upscale(tokens).float().mT)


class _Upscaling:
    """`output_upscaling` on tokens as they lie: transposed convolutions that do not overlap are products."""

    def __init__(self, layers: Any) -> None:
        first, self._norm, self._act, second, _ = layers
        self._weights = [conv.weight.permute(0, 2, 3, 1).flatten(1).contiguous() for conv in (first, second)]
        self._biases = [conv.bias.repeat(4) for conv in (first, second)]

    def __call__(self, tokens: Tensor) -> Tensor:
        """[P, N, C] to [P, 16 N, C / 8], the 4 x 4 pixels of each token together."""
        up = torch.addmm(self._biases[0], tokens.reshape(-1, tokens.shape[-1]), self._weights[0])
        up = up.unflatten(1, (4, -1))
        up = self._act(F.layer_norm(up, up.shape[-1:], self._norm.weight, self._norm.bias, self._norm.eps))
        up = self._act(torch.addmm(self._biases[1], up.flatten(0, 1), self._weights[1]))
        return up.view(len(tokens), 16 * tokens.shape[1], up.shape[1] // 4)


def confident(iou: Tensor, threshold: float) -> Tensor:
    """Which predicted IoU are above the threshold; all where it is not positive."""
    return iou > threshold if threshold > 0 else torch.ones_like(iou, dtype=torch.bool)


def _in_rows(logits: Tensor, rows: int, width: int) -> Tensor:
    """[K, 16 rows w] of 4 x 4 pixels a token, in two levels of 2 x 2, as [K, 4 rows, 4w]."""
    # Neighbours in a row stay together, so that two floats move as one value.
    pairs = logits.view(torch.int64).view(len(logits), rows, width, 2, 2, 2)
    in_rows = pairs.permute(0, 1, 3, 5, 2, 4).reshape(len(logits), 4 * rows, 2 * width)
    return in_rows.view(torch.float32)
