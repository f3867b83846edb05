"""The names that Meta's own checkpoints of SAM 2.1 give their tensors, in transformers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_POINTS = "prompt_encoder.point_embeddings.{}.weight"
_POSITIONS = "shared_image_embedding.positional_embedding"
_IMAGE_MODEL = ("vision_encoder.", "shared_image", "prompt_encoder.", "mask_decoder.", "no_memory_embedding")
_NAMES = {
    r"^image_encoder\.trunk\.patch_embed\.proj\.": "vision_encoder.backbone.patch_embed.projection.",
    r"^image_encoder\.trunk\.": "vision_encoder.backbone.",
    r"^image_encoder\.neck\.convs\.(\d+)\.conv\.": r"vision_encoder.neck.convs.\1.",
    r"^no_mem_embed$": "no_memory_embedding",
    r"^sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$": _POSITIONS,
    r"^sam_prompt_encoder\.mask_downscaling\.0\.": "prompt_encoder.mask_embed.conv1.",
    r"^sam_prompt_encoder\.mask_downscaling\.1\.": "prompt_encoder.mask_embed.layer_norm1.",
    r"^sam_prompt_encoder\.mask_downscaling\.3\.": "prompt_encoder.mask_embed.conv2.",
    r"^sam_prompt_encoder\.mask_downscaling\.4\.": "prompt_encoder.mask_embed.layer_norm2.",
    r"^sam_prompt_encoder\.mask_downscaling\.6\.": "prompt_encoder.mask_embed.conv3.",
    r"^sam_(prompt_encoder|mask_decoder)\.": r"\1.",
    r"^mask_decoder\.output_upscaling\.0\.": "mask_decoder.upscale_conv1.",
    r"^mask_decoder\.output_upscaling\.1\.": "mask_decoder.upscale_layer_norm.",
    r"^mask_decoder\.output_upscaling\.3\.": "mask_decoder.upscale_conv2.",
    r"\.norm_final_attn\.": ".layer_norm_final_attn.",
    r"\.norm(\d)\.": r".layer_norm\1.",
    r"\.out_proj\.": ".o_proj.",
    r"\.mlp\.layers\.0\.": ".mlp.proj_in.",
    r"\.mlp\.layers\.1\.": ".mlp.proj_out.",
    r"(_head|mlps\.\d+)\.layers\.0\.": r"\1.proj_in.",
    r"(_head|mlps\.\d+)\.layers\.1\.": r"\1.layers.0.",
    r"(_head|mlps\.\d+)\.layers\.2\.": r"\1.proj_out.",
}
"""One after the other."""


def transformers_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an image model under transformers' names, whichever of the two names they have."""
    if not any(key.startswith("image_encoder.trunk.") for key in state):
        return dict(state)
    renamed = {_renamed(key): value for key, value in state.items()}
    renamed = {key: value for key, value in renamed.items() if key.startswith(_IMAGE_MODEL)}
    points = [renamed.pop(_POINTS.format(k), None) for k in range(4)]
    if None not in points:
        renamed["prompt_encoder.point_embed.weight"] = torch.cat([p for p in points if p is not None])
    if (positions := renamed.get(_POSITIONS)) is not None:
        renamed["prompt_encoder.shared_embedding.positional_embedding"] = positions
    return renamed


def _renamed(key: str) -> str:
    for pattern, name in _NAMES.items():
        key = re.sub(pattern, name, key)
    return key
