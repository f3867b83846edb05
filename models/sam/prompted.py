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
from segray.models.sam.fused.selection import FusedSam, fused_sam
from segray.models.sam.geometry import Frame, Rgb, Size, frame, normalised, resized


class PromptedModel(ABC):
    """A model with an image encoder and the decoder of SAM.

    Attributes:
        device: of its weights.
        mask_threshold: logits above it belong to a mask.
    """

    device: torch.device
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

    def fused(self, dtype: torch.dtype, threshold: float) -> FusedSam | None:  # noqa: ARG002  most have none
        """Encoder and decoder by kernels, where there are any; see `fused_sam`."""
        return None


class PromptedSam(PromptedModel):
    """SAM 1.

    Args:
        sam: the model, on its device.
    """

    def __init__(self, sam: Sam) -> None:
        self._sam, self._side = sam, sam.image_encoder.img_size
        self.device, self.mask_threshold = sam.device, sam.mask_threshold

    def frame(self, height: int, width: int) -> Frame:
        """See `PromptedModel`; the long side fills the model's square input."""
        return frame(height, width, self._side)

    def resized(self, image: Rgb, size: Size) -> Tensor:
        """See `models.sam.geometry.resized`."""
        return resized(image, size, self._side)

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

    def fused(self, dtype: torch.dtype, threshold: float) -> FusedSam | None:
        """See `fused_sam`."""
        return fused_sam(self._sam, dtype, threshold)
