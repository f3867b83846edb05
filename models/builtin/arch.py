"""The picture-book models' architectures: segment_anything's and open_clip's own modules, small."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from segment_anything.modeling import Sam

SAM_ARCH: dict[str, int] = {
    "img_size": 192,
    "patch_size": 8,
    "width": 128,
    "depth": 5,
    "heads": 2,
    "mlp_ratio": 3,
    "window": 6,
    "prompt_dim": 64,
    "decoder_heads": 2,
    "decoder_mlp": 256,
    "decoder_depth": 2,
}

CLIP_ARCH: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 160, "layers": 8, "width": 96, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}

CLIP_DEPTH = 4
"""GEM's depth for this CLIP: the last 3 of its 8 blocks. The first five see shapes; GEM's blocks, at this
width, mostly gather."""

CLIP_INPUT = 256
"""Side of its input in pixels: finer than the 160 px of its training, which names more segments right."""


def build_builtin_sam(arch: dict[str, int]) -> Sam:
    """A `segment_anything.modeling.Sam` of the given sizes, in evaluation mode, with random weights.

    The last encoder block attends globally, the others in windows, as SAM's own encoders do.
    """
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = arch["img_size"] // arch["patch_size"]
    encoder = ImageEncoderViT(
        depth=arch["depth"],
        embed_dim=arch["width"],
        img_size=arch["img_size"],
        mlp_ratio=arch["mlp_ratio"],
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=arch["heads"],
        patch_size=arch["patch_size"],
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=(arch["depth"] // 2, arch["depth"] - 1),
        window_size=arch["window"],
        out_chans=arch["prompt_dim"],
    )
    prompt_encoder = PromptEncoder(
        embed_dim=arch["prompt_dim"],
        image_embedding_size=(grid, grid),
        input_image_size=(arch["img_size"], arch["img_size"]),
        mask_in_chans=16,
    )
    transformer = TwoWayTransformer(
        depth=arch["decoder_depth"],
        embedding_dim=arch["prompt_dim"],
        mlp_dim=arch["decoder_mlp"],
        num_heads=arch["decoder_heads"],
    )
    decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=transformer,
        transformer_dim=arch["prompt_dim"],
        iou_head_depth=3,
        iou_head_hidden_dim=arch["decoder_mlp"],
    )
    return Sam(encoder, prompt_encoder, decoder).eval()


def build_builtin_clip(arch: dict[str, Any]) -> CLIP:
    """An `open_clip.CLIP` of the given configuration, in evaluation mode, with random weights."""
    from open_clip.model import CLIP

    return CLIP(**arch).eval()
