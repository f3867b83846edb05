"""DPT on plain vision transformers with rotary positions: DINOv3, and EUPE, which has its architecture."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from segray.models.segmenters.base import Segmenter, resample, to_patches
from segray.models.segmenters.dpt import DPTHead
from segray.models.segmenters.vit import BLOCKS


class DinoV3(Segmenter):
    """A timm transformer of DINOv3's architecture; its last norm is applied to all four maps, as in `DinoV2`.

    Args:
        backbone: a timm name, such as `vit_small_patch16_dinov3`.
        features: channels of the decoder's fused maps.
        classes: number of output channels.

    Raises:
        ValueError: this version of timm does not have it.
    """

    encoder: Any
    perturbed = (0, 1, 2, 3)
    spare = re.compile(r"mask_token$|head\.|rope\.")

    def __init__(self, backbone: str, features: int, classes: int) -> None:
        super().__init__()
        import timm

        if not timm.is_model(backbone):
            raise ValueError(f"timm {timm.__version__} has no {backbone}: pip install -U timm")
        self.encoder = timm.create_model(backbone, num_classes=0)
        self.decoder = DPTHead(self.encoder.embed_dim, features, classes)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Four maps on one grid, one token a patch of 16 px, early blocks first.

        As timm's `forward_intermediates`, which makes the positions on the CPU, and from numbers that a
        recorded graph would keep.
        """
        encoder = self.encoder
        patches = encoder.patch_embed(to_patches(images, encoder.patch_embed.patch_size[0]))
        first = [part.expand(patches.shape[0], -1, -1) for part in (encoder.cls_token, encoder.reg_token)]
        x, rope = torch.cat([*first, patches.flatten(1, 2)], 1), rotations(patches, encoder.rope.periods)
        maps = []
        for i, block in enumerate(encoder.blocks):
            x = block(x, rope=rope)
            if i in BLOCKS:
                tokens = encoder.norm(x)[:, encoder.num_prefix_tokens :]
                maps.append(tokens.reshape(patches.shape).permute(0, 3, 1, 2))
        return tuple(maps)

    def decode(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits at 8 times the tokens' grid, resampled to `size`."""
        return resample(self.decoder(maps), size)


def rotations(patches: Tensor, periods: Tensor) -> Tensor:
    """Sines and cosines of the positions of patches [B, h, w, C], as timm's attention takes them.

    Args:
        patches: only their grid counts.
        periods: [D], of the angles, for positions between -1 and 1 on either side.

    Returns:
        [h w, 8 D].
    """
    sides = (torch.arange(length, device=patches.device).float() + 0.5 for length in patches.shape[1:3])
    # The length as a tensor: as a number it would be a constant of a recorded graph.
    rows, columns = (2 * (side / (side[-1] + 0.5)) - 1 for side in sides)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    angles = (2 * math.pi * places[:, :, None] / periods).flatten(1).repeat(1, 2)
    return torch.cat([angles.sin(), angles.cos()], -1)
