"""SAM's mask decoder on a GPU: the same function without a tensor [prompts, tokens, channels]."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segray.models.precision import rounded
from segray.models.sam.decoder import DecoderImage, HasHeads, MaskDecoder, confident
from segray.models.sam.fused.config import DecoderConfig
from segray.models.sam.fused.first_block import first_block
from segray.models.sam.fused.graphs import Graphed
from segray.models.sam.fused.masks_kernel import Upscaling, upscaled_logits
from segray.models.sam.fused.second_block import second_block
from segray.models.sam.low_rank.operands import ImageSide, PromptMaps
from segray.models.sam.low_rank.prompt_side import PromptSide

if TYPE_CHECKING:
    from segment_anything.modeling import TwoWayTransformer


class FusedDecoder:
    """What `DeviceMasks` asks of a decoder, by `segray.models.sam.low_rank.operands`.

    Args:
        sam: on its device, weights in float32; weights that change later are not seen.
        eager: its decoder whose dtype is that of operands; sums, norms, predicted IoU and logits are float32.
        threshold: pred_iou_thresh: the logits of prompts without a mask above it are not computed.
        config: of the kernels.

    Raises:
        ValueError: a decoder that is not built as the released models.
    """

    def __init__(self, sam: HasHeads, eager: MaskDecoder, threshold: float, config: DecoderConfig) -> None:
        decoder, dtype = sam.mask_decoder, eager.dtype
        _check(decoder.transformer)
        self.eager = eager
        self._config, self._dtype = config, dtype
        encoder = sam.prompt_encoder
        positions = encoder.get_dense_pe()[0].flatten(1).T.contiguous().to(decoder.iou_token.weight.dtype)
        self._image = ImageSide(decoder, positions, encoder.no_mask_embed.weight, dtype)
        self._maps = PromptMaps(decoder, self._image.constant, dtype)
        asked = decoder.num_mask_tokens
        transformer = rounded(decoder.transformer, dtype)
        self._prompts = PromptSide(transformer, self._maps, asked, config.asked_slots)
        self._upscaling = Upscaling.of(decoder, dtype)
        self._iou_head, self._hyper = decoder.iou_prediction_head, decoder.output_hypernetworks_mlps
        self._eps = tuple(layer.norm4.eps for layer in decoder.transformer.layers)
        self._captured = Graphed(partial(self._state, threshold=threshold), limit=1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens over the model's input; logits have four times as many."""
        return self.eager.grid

    def image_tokens(self, embedding: Tensor) -> DecoderImage:
        """What the prompts of an image share is computed with them; this is the embedding [C, h, w]."""
        first, second = self.eager.added(embedding)
        added = first + self._maps.shift, second
        if first.ndim == 2:
            added = added[0].to(self._dtype), second.to(self._dtype)
        return DecoderImage(self.eager.coarse(embedding), added)

    def prompts(self, points: Tensor) -> Tensor:
        """See `MaskDecoder.prompts`."""
        return self.eager.prompts(points)

    def all_masks(self, image: DecoderImage, prompts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Logits [B, 3, 4 rows, 4w] of every prompt with a confident mask, and the predicted IoU [B, 3].

        The logits of the other prompts are undefined. No shape depends on a value. The predicted IoU is valid
        until the next call.
        """
        return self._logits(image, self._captured(image.shared, prompts), rows)

    def decode(
        self, image: DecoderImage, prompts: Tensor, rows: int, threshold: float
    ) -> tuple[Tensor, Tensor]:
        """`all_masks` with another threshold, launched kernel by kernel."""
        return self._logits(image, self._state(image.shared, prompts, threshold), rows)

    def _state(self, embedding: Tensor, prompts: Tensor, threshold: float) -> tuple[Tensor, ...]:
        """All that does not depend on how many rows are needed: what `_logits` takes."""
        image, prompts = self._image(embedding), prompts.to(self._dtype)
        config, side = self._config, self._prompts
        first = side.first(prompts, image)
        pushed = side.columns(first.rows, 1)
        c1, rstd1, read = first_block(image, first, self._image.pk, pushed, self._eps[0], config.first)
        second = side.second(prompts, first, read)
        last = (side.columns(first.rows, 4), second.rows[..., -pushed.shape[2] :])
        positions = (self._image.pq2, self._image.pk3)
        c2, rstd2, read = second_block(
            image, first, second, (c1, rstd1), positions, last, self._eps[1], config.second
        )
        hidden = side.hidden(second.tokens, read)
        iou = self._iou_head(hidden[:, 0])[:, 1:]
        flags = confident(iou, threshold).any(1)
        return image.xu, c1, rstd1, c2, rstd2, first.up, second.up, self._mask_weights(hidden), flags, iou

    def _logits(self, image: DecoderImage, state: tuple[Tensor, ...], rows: int) -> tuple[Tensor, Tensor]:
        xu, c1, rstd1, c2, rstd2, up1, up2, weights, flags, iou = state
        tokens, grid = (c1, rstd1, c2, rstd2), (rows, self.grid[1])
        args = (xu, tokens, (up1, up2), image.added, self._upscaling, weights, flags, grid)
        return upscaled_logits(*args, self._config.masks), iou

    def _mask_weights(self, hidden: Tensor) -> Tensor:
        """[B, 3, C / 8] of hidden [B, 4, C]."""
        return torch.stack([mlp(hidden[:, k]) for k, mlp in enumerate(self._hyper) if k], 1)


def _check(transformer: TwoWayTransformer) -> None:
    layers = transformer.layers
    if len(layers) != 2 or not layers[0].skip_first_layer_pe or layers[1].skip_first_layer_pe:
        raise ValueError(
            "the decoder is not built as that of a released SAM: two blocks, the first without positions"
        )
