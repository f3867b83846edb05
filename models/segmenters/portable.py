"""A network with its normalisation inside, as other programs run it: pixels in, logits out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from segray.models.segmenters.base import Segmenter

MIN_SIDE = 64
"""The least height and width of an image in pixels: from here on, no map of any network has a side of one.

torch.export takes such sides for a special case, and a recorded graph has none.
"""

Pixels = Literal["uint8", "float32"]

PIXELS: dict[Pixels, tuple[torch.dtype, int]] = {"uint8": (torch.uint8, 255), "float32": (torch.float32, 1)}
"""Type and greatest value of the pixels, by name."""

_EXAMPLE = (2, 3, 75, 110)


class PortableNetwork(nn.Module):
    """Logits float32 [N, classes, H, W] of RGB images [N, 3, H, W] that are not normalised.

    Args:
        network: is set to evaluation mode.
        pixels: uint8 in 0..255, or float32 in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Segmenter, pixels: Pixels = "uint8") -> None:
        super().__init__()
        self.network = network.eval()
        self.pixels = pixels
        self.register_buffer("mean", torch.tensor(network.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(network.std)[:, None, None])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images whose sides are at least `MIN_SIDE`."""
        dtype, most = PIXELS[self.pixels]
        if images.dtype != dtype:
            raise TypeError(f"images must be {self.pixels} [N, 3, H, W] in 0..{most}, not {images.dtype}")
        return self.network((images.float() / most - self.mean) / self.std)

    def example(self) -> Tensor:
        """Images to record the network's operations with; no side fits any stride."""
        dtype, most = PIXELS[self.pixels]
        return (torch.ones(_EXAMPLE) * most / 2).to(dtype)
