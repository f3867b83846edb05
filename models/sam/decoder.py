"""SAM's mask decoder for many prompts of one image: the same function, several times cheaper.

The image tokens of a prompt are kept in one of two forms: folded (`models.sam.transformer`) or low rank
(`models.sam.low_rank`), which is half the work in float32 where tokens are as wide as those of the released
models. The predicted IoU is computed first; only prompts with a mask above the threshold are upscaled.
Nothing is approximated, only the order of summation differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from segray.models.precision import rounded
from segray.models.sam.low_rank.transformer import LowRankTransformer
from segray.models.sam.transformer import FoldedTransformer, UpscalableTokens, items_in_cache
from segray.models.sam.upscaling import Upscaling


class HasHeads(Protocol):
    """What is read of a `segment_anything.modeling.Sam`."""

    mask_decoder: Any
    prompt_encoder: Any


@dataclass(frozen=True)
class DecoderImage:
    """What all prompts of an image share.

    Attributes:
        shared: what the transformer takes.
        added: to the products of both transposed convolutions: their biases, four times, [C] and [C / 2], or
            values of each row, [N, C] and [4 N, C / 2].
    """

    shared: Any
    added: tuple[Tensor, Tensor]


class MaskDecoder:
    """The decoder of a `segment_anything.modeling.Sam`, whose weights it reads and does not modify.

    Args:
        sam: the model, on its device; later changes of its weights have no effect here.
        dtype: of the transformer and the upscaling. The prompt embedding, the predicted IoU and the product
            that yields the logits stay in float32, because rounding them would change which masks are kept.

    Attributes:
        dtype: as given.
        positions: [N, C] of the image tokens, in the weights' type.

    Raises:
        ValueError: the first block differs from that of the released models.
    """

    @torch.no_grad()
    def __init__(self, sam: HasHeads, dtype: torch.dtype = torch.float32) -> None:
        decoder, self._prompts = sam.mask_decoder, sam.prompt_encoder
        if not decoder.transformer.layers[0].skip_first_layer_pe:
            raise ValueError("the first block's skip_first_layer_pe is false, which no released SAM has")
        own = decoder.iou_token.weight.dtype
        self.positions = self._prompts.get_dense_pe()[0].flatten(1).T.contiguous().to(own)
        # In 16 bit its sums would be rounded between products, which only kernels avoid.
        low_rank = dtype == own and own.itemsize >= 4 and LowRankTransformer.fits(decoder)
        transformer = LowRankTransformer if low_rank else FoldedTransformer
        self._transform = transformer(decoder, self.positions, self._prompts.no_mask_embed.weight, dtype)
        single, several = decoder.mask_tokens.weight.split([1, decoder.num_mask_tokens - 1])
        # The single-mask token comes last: its output is never used.
        self._output_tokens = torch.cat([decoder.iou_token.weight, several, single])
        self._iou_head = decoder.iou_prediction_head
        self._hyper = decoder.output_hypernetworks_mlps
        self._upscale = Upscaling(rounded(decoder.output_upscaling, dtype))
        first, _, _, second, _ = decoder.output_upscaling
        self._biases = (first.bias.repeat(4), second.bias.repeat(4))
        self._side = self._prompts.image_embedding_size
        self.dtype = dtype

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens; logits have four times as many of each."""
        return self._side[0], self._side[1]

    @property
    def token_count(self) -> int:
        """Tokens of a prompt, see `prompts`."""
        return len(self._output_tokens) + 2

    def image_tokens(self, embedding: Tensor) -> DecoderImage:
        """Compute what all prompts of an image share, from its float32 embedding [C, h, w]."""
        first, second = self.added(embedding)
        shared = self._transform.image(self.coarse(embedding))
        return DecoderImage(shared, (first.to(self.dtype), second.to(self.dtype)))

    def coarse(self, embedding: Tensor) -> Tensor:
        """The part of an embedding that the transformer takes, [C, h, w]."""
        return embedding

    def added(self, embedding: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002  SAM 2 adds some of it
        """See `DecoderImage`; float32."""
        return self._biases

    def __call__(
        self, image: DecoderImage, points: Tensor, threshold: float, rows: int
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
        hidden, tokens = self._transform(image.shared, self.prompts(points))
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

    def all_masks(self, image: DecoderImage, prompts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Every mask of every prompt. No shape depends on a value, so the host never waits for a GPU.

        Args:
            image: from `image_tokens`.
            prompts: [B, T, C], from `prompts`.
            rows: number of rows of image tokens to decode, from the top.

        Returns:
            Logits [B, 3, 4 rows, 4w] and the predicted IoU [B, 3].
        """
        hidden, tokens = self._transform(image.shared, prompts)
        needed = slice(0, rows * self._side[1])
        logits = self._logits(image, self.mask_weights(hidden), tokens, None, needed).flatten(0, 1)
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

    def _chunked_logits(
        self,
        image: DecoderImage,
        hidden: Tensor,
        tokens: UpscalableTokens,
        confident_prompts: Tensor,
        rows: int,
    ) -> Iterator[Tensor]:
        """`_logits` of the confident prompts, in chunks that fit a CPU's cache."""
        width, channels = self._side[1], hidden.shape[2]
        step = width * items_in_cache(width * channels)
        needed = rows * width
        bands = [slice(start, min(start + step, needed)) for start in range(0, needed, step)]
        for part in confident_prompts.split(items_in_cache(needed * channels)):
            weights = self.mask_weights(hidden[part])
            yield torch.cat([self._logits(image, weights, tokens, part, band) for band in bands], 2)

    def mask_weights(self, hidden: Tensor) -> Tensor:
        """Weights [P, 3, C / 8] of the upscaled channels in each mask, from hidden [P, 4, C]."""
        return torch.stack([mlp(hidden[:, k]) for k, mlp in enumerate(self._hyper) if k], 1)

    def _logits(
        self,
        image: DecoderImage,
        weights: Tensor,
        tokens: UpscalableTokens,
        prompts: Tensor | None,
        rows: slice,
    ) -> Tensor:
        """Logits [P, 3, 16 n] of n tokens of P prompts, all if None; a token's 4 x 4 pixels are adjacent."""
        first, second = image.added
        first = first if first.ndim == 1 else first[rows]
        second = second if second.ndim == 1 else second[4 * rows.start : 4 * rows.stop]
        return torch.bmm(weights, self._upscale(tokens.up(first, prompts, rows), second).float().mT)


def confident(iou: Tensor, threshold: float) -> Tensor:
    """Which predicted IoUs are above the threshold; all if the threshold is 0 or less."""
    return iou > threshold if threshold > 0 else torch.ones_like(iou, dtype=torch.bool)


def _in_rows(logits: Tensor, rows: int, width: int) -> Tensor:
    """Reorder [K, 16 rows w], 4 x 4 pixels per token in two levels of 2 x 2, to [K, 4 rows, 4w]."""
    # Two neighbours in a row are adjacent before and after, so they move as one 64-bit value.
    pairs = logits.view(torch.int64).view(len(logits), rows, width, 2, 2, 2)
    in_rows = pairs.permute(0, 1, 3, 5, 2, 4).reshape(len(logits), 4 * rows, 2 * width)
    return in_rows.view(torch.float32)
