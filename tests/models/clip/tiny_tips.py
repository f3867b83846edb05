"""A TIPSv2 small enough for any test, with a tokenizer of letters."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from safetensors.torch import save_file

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ARCH: dict[str, Any] = {
    "vision_config": {**SIZES, "image_size": 56, "patch_size": 14},
    "text_config": {**SIZES, "intermediate_size": 64, "vocab_size": 1000},
}


def save_tips(folder: Path, seed: int = 0) -> Path:
    """Random weights, their architecture, and a tokenizer beside them."""
    from transformers import Tipsv2Config, Tipsv2Model, Tipsv2Tokenizer

    torch.manual_seed(seed)
    model = Tipsv2Model(Tipsv2Config(**ARCH))
    state = {k: (v + 0.1 * torch.randn_like(v)).contiguous() for k, v in model.state_dict().items()}
    state["temperature"] = torch.tensor(0.02)
    path = folder / "tips.safetensors"
    save_file(state, path, {"segray": json.dumps({"arch": ARCH})})
    vocab = {"<pad>": 0, "<unk>": 1, "\u2581": 2} | {c: 3 + i for i, c in enumerate(ascii_lowercase + ".")}
    Tipsv2Tokenizer(vocab=vocab, merges=[]).save_pretrained(str(folder))
    return path
