"""SAM 2 as a model that `models.sam.generator.MaskGenerator` prompts with points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segray.models.sam.fused.config import FusedConfig
from segray.models.sam.fused.selection import FusedSam
from segray.models.sam.geometry import Frame, Rgb, Size
from segray.models.sam.prompted import PromptedModel
from segray.models.sam2.decoder import Sam2Decoder, joined, segment_anything_heads
from segray.models.segmenters.base import IMAGENET_MEAN, IMAGENET_STD


class PromptedSam2(PromptedModel):
    """A `Sam2Model` of transformers.

    Images are stretched to the square input, so a grid over the square is one over the whole image.

    Args:
        network: in evaluation mode, on its device.
    """

    def __init__(self, network: Any) -> None:
        self.network, self.side = network, int(network.config.prompt_encoder_config.image_size)
        self._samples = 4 * network.prompt_encoder.image_embedding_size[0]
        self.device = next(network.parameters()).device

    def frame(self, height: int, width: int) -> Frame:
        """See `PromptedModel`; logits go to the image in one step, not by way of the model's input."""
        return Frame(height, width, self._samples, self._samples, self._samples)

    def resized(self, image: Rgb, size: Size) -> Tensor:  # noqa: ARG002  it is stretched, whatever its size
        """Float32 [3, side, side] in 0..1; bilinear, antialiased, without rounding, as upstream does."""
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous().float() / 255
        side = (self.side, self.side)
        return F.interpolate(pixels[None], side, mode="bilinear", align_corners=False, antialias=True)[0]

    def normalised(self, images: Sequence[Tensor]) -> Tensor:
        """As on ImageNet."""
        batch = torch.stack([image.to(self.device, non_blocking=True) for image in images])
        mean, std = (
            torch.tensor(value, device=self.device)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD)
        )
        return (batch - mean) / std

    def encoder(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """See `joined`."""

        def encode(images: Tensor) -> Tensor:
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                maps = self.network.get_image_embeddings(images)
            return joined([map_.float() for map_ in maps])

        return encode

    def decoder(self, dtype: torch.dtype) -> Sam2Decoder:
        """See `Sam2Decoder`."""
        return Sam2Decoder(self.network, dtype)

    @torch.no_grad()
    def kernels(self, dtype: torch.dtype, threshold: float, config: FusedConfig) -> FusedSam:
        """See `PromptedModel`; of the decoder, which has most of the work: the encoder runs as it is."""
        from segray.models.sam.fused.decoder import FusedDecoder

        heads = segment_anything_heads(self.network)
        decoder = FusedDecoder(heads, self.decoder(dtype), threshold, config.decoder)
        return FusedSam(self.encoder(dtype), decoder, config.decoder.prompts)
