"""Tiny random models of transformers, as files with their architecture inside."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from segray.models.annotators.sam2 import hiera

_PROMPTS = {"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 8}
_DECODER = {
    "hidden_size": 32,
    "mlp_dim": 64,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 32,
    "num_hidden_layers": 2,
}
SAM2 = hiera(
    (16, 32, 64, 128),
    1,
    image_size=[128, 128],
    # The first block of a stage pools queries, and divides by zero where its attention is global.
    blocks_per_stage=[1, 2, 2, 2],
    window_size_per_stage=[8, 4, 4, 2],
    global_attention_blocks=[4],
)
SAM2["vision_config"] |= {"backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]], "fpn_hidden_size": 32}
SAM2 |= {"prompt_encoder_config": _PROMPTS, "mask_decoder_config": _DECODER}


def wider_sam2() -> dict[str, Any]:
    """`SAM2` with 64 channels in the decoder, which kernels need."""
    wider = copy.deepcopy(SAM2)
    wider["vision_config"]["fpn_hidden_size"] = 64
    wider["prompt_encoder_config"]["hidden_size"] = wider["mask_decoder_config"]["hidden_size"] = 64
    return wider


EOMT = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "num_blocks": 1,
    "num_queries": 5,
    "num_upscale_blocks": 2,
    "num_labels": 7,
}
SAM_HQ = {
    "vision_config": {
        "hidden_size": 32,
        "output_channels": 32,
        "num_pos_feats": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 128,
        "patch_size": 16,
        "window_size": 4,
        "global_attn_indexes": [0, 1],
        "mlp_dim": 64,
    },
    "prompt_encoder_config": {**_PROMPTS, "image_embedding_size": 8},
    "mask_decoder_config": {**_DECODER, "vit_dim": 32},
}
_LAYERS = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
SAM3 = {
    "vision_config": {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 112,
            "patch_size": 14,
            "window_size": 4,
            "global_attn_indexes": [1],
            "pretrain_image_size": 56,
        },
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    },
    "text_config": {
        "model_type": "clip_text_model",
        "vocab_size": 49408,
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    "geometry_encoder_config": _LAYERS,
    "detr_encoder_config": _LAYERS,
    "detr_decoder_config": {**_LAYERS, "num_queries": 10},
    "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
}
TINY: dict[str, dict[str, Any]] = {"sam2.1_hiera_tiny": SAM2, "sam_hq_vit_b": SAM_HQ, "eomt_large": EOMT}
ARCHS = {**TINY, "sam3": SAM3}


def tiny_network(name: str, seed: int = 0) -> Any:
    """A random network whose outputs vary over the image and from prompt to prompt."""
    import transformers

    classes = {
        "eomt_large": (transformers.EomtForUniversalSegmentation, transformers.EomtConfig),
        "sam_hq_vit_b": (transformers.SamHQModel, transformers.SamHQConfig),
        "sam2.1_hiera_tiny": (transformers.Sam2Model, transformers.Sam2Config),
        "sam3": (transformers.Sam3Model, transformers.Sam3Config),
    }
    torch.manual_seed(seed)
    model, config = classes[name]
    network = model(config(**ARCHS[name]))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
    return network.eval()


@torch.no_grad()
def with_biases(network: Any) -> Any:
    """The network with biases and norms in its decoder; as it is made, none of them would be missed."""
    for name, parameter in network.mask_decoder.named_parameters():
        if parameter.ndim == 1:
            parameter.normal_(float("norm" in name and name.endswith("weight")), 0.2)
    return network


def write_weights(folder: Path, name: str, seed: int = 0) -> Path:
    """A file that `sam.weights` or `labeller.weights` takes."""
    state = {key: value.clone().contiguous() for key, value in tiny_network(name, seed).state_dict().items()}
    path = folder / f"{name}.safetensors"
    save_file(state, path, {"segray": json.dumps({"arch": ARCHS[name]})})
    return path
