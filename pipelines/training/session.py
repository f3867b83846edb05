"""What a training loop needs to know of the workers around it; with Ray Train, or alone in one process."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from segray.pipelines.io import storage

_log = logging.getLogger(__name__)


class Session(Protocol):
    """One worker's view of a training run."""

    rank: int
    workers: int

    def report(self, metrics: Mapping[str, Any], checkpoint: Path | None) -> None:
        """Hand over figures, and on rank 0 a folder with a checkpoint; all ranks call it."""
        ...

    def checkpoints(self) -> list[str]:
        """URIs of the checkpoints so far, newest first."""
        ...

    def say(self, line: str) -> None:
        """Show a line to whoever started the run."""
        ...


class LocalSession:
    """One process without Ray; checkpoints go into a folder."""

    rank = 0
    workers = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def report(self, metrics: Mapping[str, Any], checkpoint: Path | None) -> None:
        """Keep a copy of the checkpoint; the figures are in it."""
        if checkpoint is not None:
            target = self.folder / f"checkpoint_{int(metrics['step']):08d}"
            shutil.copytree(checkpoint, target, dirs_exist_ok=True)

    def checkpoints(self) -> list[str]:
        """Folders of the checkpoints, newest first."""
        return newest_first(str(self.folder))

    def say(self, line: str) -> None:
        """Log it."""
        _log.info("%s", line)


class RaySession:
    """A worker of a `TorchTrainer`.

    Args:
        folder: where Ray keeps the run's checkpoints.
        board: an actor with `write(line)`.
    """

    def __init__(self, folder: str, board: Any) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.folder, self.board = folder, board

    def report(self, metrics: Mapping[str, Any], checkpoint: Path | None) -> None:
        """Ray keeps the figures and uploads the folder to the run's storage."""
        import ray.train

        kept = ray.train.Checkpoint.from_directory(str(checkpoint)) if checkpoint is not None else None
        ray.train.report(dict(metrics), checkpoint=kept)

    def checkpoints(self) -> list[str]:
        """What lies in the folder: also what an earlier driver left, and a copy that was cut."""
        return newest_first(self.folder)

    def say(self, line: str) -> None:
        """Send it to the driver."""
        self.board.write.remote(line)


def newest_first(folder: str) -> list[str]:
    """URIs of the checkpoints in a folder; their names tell their time."""
    names = [name for name in storage.list_names(folder) if name.startswith("checkpoint_")]
    return [storage.join(folder, name) for name in sorted(names, reverse=True)]


def sum_over_workers(values: Tensor) -> Tensor:
    """The sum of a tensor over all workers; itself where there is one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def device_of_worker() -> torch.device:
    """The GPU that this worker was given, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
