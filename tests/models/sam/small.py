"""Small SAM halves with weights that make attention uneven, so that a wrong term shows."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn


def small_decoder(channels: int, heads: int, grid: tuple[int, int]) -> Any:
    """A SAM without an encoder: [h, w] tokens of so many channels."""
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=2 * channels, num_heads=heads)
    decoder = MaskDecoder(
        transformer_dim=channels,
        transformer=transformer,
        num_multimask_outputs=3,
        iou_head_hidden_dim=channels,
    )
    for name, module in decoder.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.normal_(1, 0.2)
            module.bias.normal_(0, 0.2)
        if name.endswith(("q_proj", "k_proj")):
            module.weight.mul_(3)
    side = (16 * grid[0], 16 * grid[1])
    prompts = PromptEncoder(
        embed_dim=channels, image_embedding_size=grid, input_image_size=side, mask_in_chans=16
    )
    return SimpleNamespace(
        mask_decoder=decoder.eval(), prompt_encoder=prompts.eval(), device=torch.device("cpu")
    )


def small_encoder(width: int, heads: int, grid: int, window: int) -> Any:
    """One block with windows and a global one, over a grid of 8 px patches."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        depth=2,
        embed_dim=width,
        img_size=8 * grid,
        mlp_ratio=2,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=heads,
        patch_size=8,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=(1,),
        window_size=window,
        out_chans=32,
    ).eval()
    for block in encoder.blocks:
        block.attn.rel_pos_h.normal_(0, 0.3)
        block.attn.rel_pos_w.normal_(0, 0.3)
        block.attn.qkv.weight.mul_(3)
        # A window's places outside of the image have these as keys and values.
        block.attn.qkv.bias.normal_(0, 0.5)
    encoder.pos_embed.normal_(0, 0.5)
    return encoder
