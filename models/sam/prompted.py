"""Models that `MaskGenerator` prompts with points, and SAM 1 as one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from segray.models.precision import rounded
from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.encoder import encode_images
from segray.models.sam.fused.config import FusedConfig
from segray.models.sam.fused.selection import FusedSam, fused_sam
from segray.models.sam.geometry import Frame, Rgb, Size, frame, normalised, resized


class PromptedModel(ABC):
    """A model with an image encoder and the decoder of SAM.

    Attributes:
        device: of its weights.
        side: of its square input in pixels.
        mask_threshold: logits above it belong to a mask.
    """

    device: torch.device
    side: int
    mask_threshold: float = 0.0

    @abstractmethod
    def frame(self, height: int, width: int) -> Frame:
        """From the pixels of an image of this size to those in which the decoder takes points."""

    @abstractmethod
    def resized(self, image: Rgb, size: Size) -> Tensor:
        """An image as `normalised` takes it.

        Args:
            image: uint8 [H, W, 3], or a reduced copy of it.
            size: (height, width) of the original image.
        """

    @abstractmethod
    def normalised(self, images: Sequence[Tensor]) -> Tensor:
        """Images from `resized` as one float32 [B, 3, side, side] on the device."""

    @abstractmethod
    def encoder(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Float32 embeddings [B, ...] of images from `normalised`, computed in `dtype`."""

    @abstractmethod
    def decoder(self, dtype: torch.dtype) -> MaskDecoder:
        """The decoder of an embedding."""

    @abstractmethod
    def kernels(self, dtype: torch.dtype, threshold: float, config: FusedConfig) -> FusedSam:
        """Encoder and decoder by kernels, without a check.

        Args:
            dtype: of weights and operands.
            threshold: pred_iou_thresh: the logits of prompts without a mask above it are not computed.
            config: of the kernels.

        Raises:
            ValueError: a model that is not built as the released ones.
        """

    def fused(self, dtype: torch.dtype, threshold: float) -> FusedSam | None:
        """The kernels where they can be trusted, see `fused_sam`."""
        return fused_sam(self, dtype, threshold)


class PromptedSam(PromptedModel):
    """SAM 1.

    Args:
        sam: the model, on its device.
    """

    def __init__(self, sam: Sam) -> None:
        self._sam, self.side = sam, sam.image_encoder.img_size
        self.device, self.mask_threshold = sam.device, sam.mask_threshold

    def frame(self, height: int, width: int) -> Frame:
        """See `PromptedModel`; the long side fills the model's square input."""
        return frame(height, width, self.side)

    def resized(self, image: Rgb, size: Size) -> Tensor:
        """See `models.sam.geometry.resized`."""
        return resized(image, size, self.side)

    def normalised(self, images: Sequence[Tensor]) -> Tensor:
        """See `models.sam.geometry.normalised`."""
        return normalised(self._sam, images)

    def encoder(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """See `encode_images`."""
        encoder, trunk = self._sam.image_encoder, rounded(self._sam.image_encoder, dtype)
        return lambda images: encode_images(encoder, images, trunk)

    def decoder(self, dtype: torch.dtype) -> MaskDecoder:
        """See `MaskDecoder`."""
        return MaskDecoder(self._sam, dtype)

    @torch.no_grad()
    def kernels(self, dtype: torch.dtype, threshold: float, config: FusedConfig) -> FusedSam:
        """See `PromptedModel`."""
        from segray.models.sam.fused.decoder import FusedDecoder
        from segray.models.sam.fused.encoder import FusedEncoder

        encoder = FusedEncoder(self._sam.image_encoder, dtype, config.encoder)
        decoder = FusedDecoder(self._sam, self.decoder(dtype), threshold, config.decoder)
        return FusedSam(encoder, decoder, config.decoder.prompts)
