"""DPT on plain vision transformers: DINOv2, as in UniMatch V2, and CLIP."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from segray.models.clip.gem import resampled_positions
from segray.models.clip.weights import OPENAI_MEAN, OPENAI_STD
from segray.models.recording import records_graph
from segray.models.segmenters.base import Segmenter, resample, to_patches
from segray.models.segmenters.dpt import DPTHead
from segray.models.segmenters.tokens import clip_tower, token_maps

BLOCKS = (2, 5, 8, 11)
"""Of twelve, counted from 0: the blocks whose tokens the decoder sees, as in UniMatch V2."""


class DinoV2(Segmenter):
    """A timm DINOv2 transformer; its last norm is applied to all four maps, as in UniMatch V2.

    Args:
        backbone: a timm name, such as `vit_small_patch14_dinov2`.
        features: channels of the decoder's fused maps.
        classes: number of output channels.
    """

    encoder: Any
    perturbed = (0, 1, 2, 3)
    spare = re.compile(r"mask_token$|head\.")

    def __init__(self, backbone: str, features: int, classes: int) -> None:
        super().__init__()
        import timm

        self.encoder = timm.create_model(backbone, num_classes=0, dynamic_img_size=True)
        self.decoder = DPTHead(self.encoder.embed_dim, features, classes)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Four maps on one grid, one token a patch of 14 px, early blocks first."""
        images = to_patches(images, self.encoder.patch_embed.patch_size[0])
        if records_graph():
            return _recorded_maps(self.encoder, images)
        return tuple(
            self.encoder.forward_intermediates(images, indices=BLOCKS, norm=True, intermediates_only=True)
        )

    def decode(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits at 8 times the tokens' grid, resampled to `size`."""
        return resample(self.decoder(maps), size)


def _recorded_maps(encoder: Any, images: Tensor) -> tuple[Tensor, ...]:
    """What timm's `forward_intermediates` computes, which branches on the size of the image."""
    patches = encoder.patch_embed(images)
    positions = resampled_positions(encoder.pos_embed[0], encoder.patch_embed.grid_size, patches.shape[1:3])
    tokens = patches.flatten(1, 2)
    x = torch.cat([encoder.cls_token.expand(patches.shape[0], -1, -1), tokens], 1) + positions
    maps = []
    for i, block in enumerate(encoder.blocks):
        x = block(x)
        if i in BLOCKS:
            maps.append(encoder.norm(x)[:, 1:].reshape(patches.shape).permute(0, 3, 1, 2))
    return tuple(maps)


class ClipDPT(Segmenter):
    """The image tower of an open_clip model; its last norm is applied to all four maps.

    Args:
        model: an open_clip name with twelve blocks, such as `ViT-B-16-quickgelu`.
        features: channels of the decoder's fused maps.
        classes: number of output channels.
    """

    perturbed = (0, 1, 2, 3)
    mean = OPENAI_MEAN
    std = OPENAI_STD
    spare = re.compile(r"(?!visual\.)|visual\.proj$")
    # As SemiVL predicts with its CLIP networks (Hoyer et al., ECCV 2024).
    crop_windows = True

    def __init__(self, model: str, features: int, classes: int) -> None:
        super().__init__()
        from segray.models.clip.catalogue import get_model_config

        config = get_model_config(model)
        self.encoder = clip_tower(config)
        self.decoder = DPTHead(config["vision_cfg"]["width"], features, classes)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Four maps on one grid, one token a patch of 16 px, early blocks first."""
        return token_maps(self.encoder, images, BLOCKS)

    def decode(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits at 8 times the tokens' grid, resampled to `size`."""
        return resample(self.decoder(maps), size)

    def official_key(self, key: str) -> str:
        """The name in a whole CLIP's state dict."""
        return f"visual.{key}"
