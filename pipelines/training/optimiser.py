"""The optimiser: the decoder learns faster than the encoder, and only matrices decay."""

from __future__ import annotations

import torch

from segray.models.segmenters.registry import Segmenter
from segray.pipelines.config.commands.train import LearnConfig


def make_optimiser(network: Segmenter, config: LearnConfig) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW; each group's `factor` multiplies the learning rate of the step."""
    groups = []
    for module, factor in ((network.encoder, 1.0), (network.decoder, config.decoder_lr)):
        parameters = [p for p in module.parameters() if p.requires_grad]
        for decay, chosen in (
            (config.weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        ):
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "factor": factor})
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)
