"""The parts of a trainer: the network, the student that wraps it, the optimiser and its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segray.models.precision import allow_tf32
from segray.models.segmenters.registry import Segmenter, build_segmenter
from segray.models.semi.student import Logits, Student
from segray.models.semi.supervised import balanced_weights
from segray.pipelines.config.commands.train import (
    BALANCED,
    LearnConfig,
    LossConfig,
    TrainConfig,
    parse_weights,
)
from segray.pipelines.errors import UserError
from segray.pipelines.training.graphed import GraphedStudent
from segray.pipelines.understood import PixelCounts


def build_network(config: TrainConfig, classes: int, device: torch.device, workers: int) -> Segmenter:
    """The network on its device; with several GPUs, batch normalisation is synchronised between them.

    On a GPU, this process takes TF32 for float32 products from then on, or not, as `train.precision` says.
    """
    if device.type == "cuda":
        allow_tf32(config.train.precision != "fp32")
    start = config.network
    network = build_segmenter(start.name, classes, weights=start.weights, pretrained=start.loads_encoder)
    if device.type == "cuda" and workers > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if uses_channels_last(config, device):
        network = network.to(memory_format=torch.channels_last)
    return network.to(device)


def uses_channels_last(config: TrainConfig, device: torch.device) -> bool:
    """Whether images and weights are in the channels-last memory format."""
    if config.train.channels_last is not None:
        return config.train.channels_last
    return device.type == "cuda" and config.network.name.startswith("deeplab")


def build_student(
    network: Segmenter, config: LearnConfig, workers: int, *, alike: bool = True
) -> Callable[..., Logits]:
    """The network's `Student`: compiled on request, in DDP if several workers share each batch.

    On a GPU of its own it is a `GraphedStudent`, unless it is compiled, a batch is taken in parts, or not all
    steps are `alike`.
    """
    device = next(network.parameters()).device
    plain = Student(network)
    student: nn.Module = torch.compile(plain) if config.compile else plain  # type: ignore[assignment]
    if workers == 1:
        graphed = alike and device.type == "cuda" and not config.compile and config.accumulate == 1
        return GraphedStudent(plain) if graphed else student
    return DistributedDataParallel(student, device_ids=[device] if device.type == "cuda" else None)


def make_optimiser(network: Segmenter, config: LearnConfig) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW.

    The decoder learns `decoder_lr` times faster than the encoder; only parameters of two or more dimensions
    decay. The `factor` of a parameter group multiplies the learning rate of the step. On a GPU one kernel
    updates many parameters.
    """
    fused = next(network.parameters()).device.type == "cuda" or None
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
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, fused=fused)


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict, but not how another device computed the update.

    Args:
        optimiser: of the same parameters.
        state: of `optimiser.state_dict()`; changed in place.
    """
    for group, current in zip(state["param_groups"], optimiser.param_groups, strict=True):
        group["fused"] = current["fused"]
    optimiser.load_state_dict(state)


def class_weights(config: LossConfig, labelled: PixelCounts) -> list[float] | None:
    """The weight of each class in the loss of labelled images; None: all the same.

    Raises:
        UserError: not as many weights as classes.
    """
    if config.class_weights is None:
        return None
    if config.class_weights == BALANCED:
        return balanced_weights(labelled.pixels)
    weights = parse_weights(config.class_weights)
    if len(weights) != len(labelled.pixels):
        count = len(labelled.pixels)
        raise UserError(
            f"loss.class_weights: {len(weights)} weights, the data has {count} classes, from id 0"
        )
    return weights


def learning_rate(config: LearnConfig, step: int, total: int) -> float:
    """The encoder's learning rate in a step: linear warm-up, then polynomial decay to 0.

    Args:
        config: `lr` is that of a batch of 8, and is scaled by batch / 8.
        step: counted from 0.
        total: steps of the whole run.
    """
    warmup = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return config.lr * config.batch / 8 * warmup * (1 - step / total) ** config.power


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group its multiple of `lr`."""
    for group in optimiser.param_groups:
        group["lr"] = group["factor"] * lr
