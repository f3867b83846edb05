"""A checkpoint as training leaves it, of an untrained network, and images to label with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from segray.models.segmenters.registry import build_segmenter
from segray.pipelines.training.checkpoints import save_checkpoint

CLASSES = ("background", "cat", "dog")


def network(seed: int = 0) -> nn.Module:
    """The smallest network; of random weights, without the bias that would let one class win everywhere."""
    torch.manual_seed(seed)
    made = build_segmenter("builtin", len(CLASSES), pretrained=False)
    with torch.no_grad():
        dict(made.named_parameters())["decoder.classifier.bias"].zero_()
    return made


def write_run(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """The folder of a training run with its best checkpoint; `changes` are made to the state."""
    best = folder / "best"
    best.mkdir(parents=True)
    (folder / "config.yaml").write_text("method: segray\n")
    made = network(seed)
    state = {
        "step": 7,
        "total": 9,
        "history": [],
        "classes": list(CLASSES),
        "network": "builtin",
        "window": None,
        "config": {},
    }
    save_checkpoint(best, made, None, torch.optim.SGD(made.parameters(), lr=0.1), {**state, **changes})
    return folder
