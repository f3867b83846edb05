"""open_clip's vision transformers as encoders: maps of patch tokens, at any image size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from segray.models.clip.gem import embed
from segray.models.segmenters.base import to_patches

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer


def clip_tower(config: Mapping[str, Any]) -> VisionTransformer:
    """The image tower of an open_clip configuration, with random weights.

    It has no projection into the text space, which the loss of a segmenter would never reach.
    """
    from open_clip.transformer import QuickGELU, VisionTransformer

    vision = config["vision_cfg"]
    tower = VisionTransformer(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision.get("head_width", 64),
        mlp_ratio=4.0,
        output_dim=config["embed_dim"],
        act_layer=QuickGELU if config.get("quick_gelu") else nn.GELU,
    )
    tower.proj = None
    return tower


def token_maps(visual: VisionTransformer, images: Tensor, blocks: Sequence[int]) -> tuple[Tensor, ...]:
    """The patch tokens after some blocks, normed by the tower's last norm: maps [B, C, h, w].

    Args:
        visual: `model.visual` of an open_clip model, with a class token; gradients flow.
        images: [B, 3, H, W], normalised, of any size.
        blocks: indices of the blocks, counted from 0.
    """
    images = to_patches(images, visual.patch_size[0])
    rows = images.shape[-2] // visual.patch_size[0]
    x, maps = embed(visual, images), []
    for i, block in enumerate(visual.transformer.resblocks):
        x = block(x)
        if i in blocks:
            maps.append(visual.ln_post(x)[:, 1:].transpose(1, 2).unflatten(2, (rows, -1)))
    return tuple(maps)
