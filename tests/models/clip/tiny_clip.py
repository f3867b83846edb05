"""A CLIP small enough for any test, with its tokenizer's real vocabulary."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

TINY_ARCH: dict[str, Any] = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 24, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tiny_clip(seed: int = 0, **changes: Any) -> Any:
    """A CLIP with random weights large enough that every part of the network shows in its output."""
    arch = copy.deepcopy(TINY_ARCH)
    arch["vision_cfg"] |= changes.pop("vision", {})
    torch.manual_seed(seed)
    model = CLIP(**(arch | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def save_builtin(model: Any, path: Path, arch: dict[str, Any] = TINY_ARCH) -> Path:
    """Write a CLIP as the built-in weights are written: fp16 tensors and the sizes beside them."""
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, path, {"segray": json.dumps({"arch": arch})})
    return path
