"""The parts of a trainer: the network, the student that wraps it, the optimiser and its learning rate."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segray.models.segmenters.registry import Segmenter, build_segmenter
from segray.models.semi.student import Student
from segray.pipelines.config.commands.train import LearnConfig, TrainConfig


def build_network(config: TrainConfig, classes: int, device: torch.device, workers: int) -> Segmenter:
    """The network on its device; with several GPUs, batch normalisation is synchronised between them."""
    network = build_segmenter(
        config.network.name, classes, weights=config.network.weights, pretrained=config.network.pretrained
    )
    if device.type == "cuda" and workers > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if config.train.channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network.to(device)


def build_student(network: Segmenter, *, compiled: bool, workers: int) -> nn.Module:
    """The network's `Student`, compiled on request, and in DDP if several workers share each batch."""
    student: nn.Module = Student(network)
    if compiled:
        student = torch.compile(student)  # type: ignore[assignment]
    if workers == 1:
        return student
    device = next(network.parameters()).device
    return DistributedDataParallel(student, device_ids=[device] if device.type == "cuda" else None)


def make_optimiser(network: Segmenter, config: LearnConfig) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW.

    The decoder learns `decoder_lr` times faster than the encoder; only parameters of two or more dimensions
    decay. The `factor` of a parameter group multiplies the learning rate of the step.
    """
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
