"""Which devices a run will have, before it starts: whether GPUs, and whether they compute in bfloat16."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from segray.pipelines.config.shared import GrowConfig
from segray.pipelines.engine import cluster

if TYPE_CHECKING:  # torch takes seconds to import
    from segray.models.precision import TrainPrecision

WITHOUT_BF16 = frozenset({"K80", "P4", "P100", "V100", "T4", "RTX-TITAN", "TITAN"})
"""Ray's names (`accelerator_type:NAME`) of GPUs older than compute capability 8.0."""


def has_gpus(address: str | None, grow: GrowConfig) -> bool:
    """Whether a run will have GPUs: those of the cluster, of this machine, or on request.

    Args:
        address: of the cluster, as in the configuration.
        grow: what the cluster is asked for.

    Raises:
        UserError: no cluster at the address.
    """
    if grow.gpus:
        return True
    address = address or os.environ.get("RAY_ADDRESS")
    if is_this_machine(address):
        import torch

        return torch.cuda.is_available()
    with cluster.connected(address):
        return cluster.resources().gpus >= 1


def have_bf16(address: str | None) -> bool:
    """Whether all GPUs that are there now compute in bfloat16; without any, those to come are taken to.

    Raises:
        UserError: no cluster at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if is_this_machine(address):
        import torch

        return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    with cluster.connected(address):
        import ray

        prefix = "accelerator_type:"
        kinds = {k.removeprefix(prefix) for k in ray.cluster_resources() if k.startswith(prefix)}
    return not kinds & WITHOUT_BF16


def best_precision(address: str | None, grow: GrowConfig) -> TrainPrecision:
    """What `auto` stands for in training and prediction on the devices of a run.

    Args:
        address: of the cluster, as in the configuration.
        grow: what the cluster is asked for.

    Raises:
        UserError: no cluster at the address.
    """
    from segray.models.precision import best_train_precision

    if not has_gpus(address, grow):
        return best_train_precision("cpu", has_bf16=False)
    return best_train_precision("cuda", has_bf16=have_bf16(address))


def is_this_machine(address: str | None) -> bool:
    """Whether a run with this address starts on this machine alone."""
    return address in (None, "local") and not cluster.has_joined()
