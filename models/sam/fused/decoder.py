"""SAM's mask decoder on a GPU: the same function without a tensor [prompts, tokens, channels]."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from segray.models.precision import rounded
from segray.models.sam.decoder import DecoderImage, HasHeads, MaskDecoder, confident
from segray.models.sam.fused.config import DecoderConfig
from segray.models.sam.fused.first_block import first_block
from segray.models.sam.fused.graphs import Graphed
from segray.models.sam.fused.masks_kernel import Upscaling, upscaled_logits
from segray.models.sam.fused.second_block import second_block
from segray.models.sam.low_rank.operands import SLOTS, ImageSide, PromptMaps, has_form
from segray.models.sam.low_rank.prompt_side import PromptSide


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
        _check(decoder, eager, config)
        self.eager, self._config = eager, config
        no_mask = sam.prompt_encoder.no_mask_embed.weight
        self._image = ImageSide(decoder, eager.positions, no_mask, dtype)
        self._maps = PromptMaps(decoder, self._image.constant, dtype)
        transformer, slots = rounded(decoder.transformer, dtype), (SLOTS, config.asked_slots)
        self._prompts = PromptSide(transformer, self._maps, decoder.num_mask_tokens, slots)
        self._upscaling = Upscaling.of(decoder, dtype)
        self._iou_head = decoder.iou_prediction_head
        self._eps = tuple(layer.norm4.eps for layer in decoder.transformer.layers)
        self._captured = Graphed(partial(self._state, threshold=threshold), limit=1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens over the model's input; logits have four times as many."""
        return self.eager.grid

    def image_tokens(self, embedding: Tensor) -> DecoderImage:
        """The part [C, h, w] of a float32 embedding that prompts share, and what the upscaling adds.

        What follows from the embedding is computed with the prompts, in one CUDA graph.
        """
        first, second = self.eager.added(embedding)
        added = first + self._maps.shift, second
        if first.ndim == 2:
            # Maps are read for each prompt; biases stay in float32.
            added = added[0].to(self.eager.dtype), second.to(self.eager.dtype)
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
        image, prompts = self._image(embedding), prompts.to(self.eager.dtype)
        config, side = self._config, self._prompts
        first = side.first(prompts, image)
        c1, rstd1, read = first_block(image, first, self._image.pk, first.v2, self._eps[0], config.first)
        second = side.second(prompts, first, read)
        pushed, positions = (first.v3, second.v3), (self._image.pq2, self._image.pk3)
        c2, rstd2, read = second_block(
            image, first, second, (c1, rstd1), positions, pushed, self._eps[1], config.second
        )
        hidden = side.hidden(second.tokens, read)
        iou = self._iou_head(hidden[:, 0])[:, 1:]
        flags = confident(iou, threshold).any(1)
        weights = self.eager.mask_weights(hidden)
        return image.xu, c1, rstd1, c2, rstd2, first.up, second.up, weights, flags, iou

    def _logits(self, image: DecoderImage, state: tuple[Tensor, ...], rows: int) -> tuple[Tensor, Tensor]:
        xu, c1, rstd1, c2, rstd2, up1, up2, weights, flags, iou = state
        tokens, grid = (c1, rstd1, c2, rstd2), (rows, self.grid[1])
        args = (xu, tokens, (up1, up2), image.added, self._upscaling, weights, flags, grid)
        return upscaled_logits(*args, self._config.masks), iou


def _check(decoder: Any, eager: MaskDecoder, config: DecoderConfig) -> None:
    if not has_form(decoder.transformer):
        raise ValueError(
            "the decoder is not built as that of a released SAM: two blocks, the first without positions"
        )
    tokens, asked = eager.token_count, decoder.num_mask_tokens
    if tokens > SLOTS or asked > config.asked_slots:
        raise ValueError(f"a prompt has {tokens} tokens, {asked} of them asked for, which are too many")
