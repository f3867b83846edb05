"""How a training worker talks to the others and to its driver: with Ray Train, or alone in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.io import storage
from segray.pipelines.printing import echo
from segray.pipelines.training.checkpoints import CHECKPOINTS_KEPT, score, store_checkpoint
from segray.pipelines.training.log_collector import LogActor

_NOTE_S = 5.0

Metrics = Mapping[str, float | None]
"""Scalars of one validation."""


class Session(Protocol):
    """One worker's view of a training run."""

    rank: int
    workers: int

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        """Hand over metrics, and on rank 0 a folder with a checkpoint; all ranks call it."""
        ...

    def keep(self, checkpoint: Path | None) -> None:
        """Store a checkpoint between two validations, on rank 0 its folder; all ranks call it."""
        ...

    def preempted(self) -> bool:
        """Whether a machine of the run is about to be taken away; all ranks call it, equally often."""
        ...

    def checkpoints(self) -> list[str]:
        """URIs of the checkpoints so far, newest first."""
        ...

    def log(self, line: str) -> None:
        """Show a line to the user."""
        ...

    def note(self, doing: str) -> None:
        """What the run is doing now, for a user who waits: a noun, as in "waiting for {doing}"."""
        ...


class LocalSession:
    """One process without Ray. Names and choice of checkpoints are those of Ray Train.

    Args:
        folder: path or URI of the folder that checkpoints go to.
        wait: says what a user waits for.
    """

    rank = 0
    workers = 1

    def __init__(self, folder: str, wait: Waiting | None = None) -> None:
        self.folder, self._wait = folder, wait or Waiting("")

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:  # noqa: ARG002
        """Keep a copy of the checkpoint, which holds the metrics; remove those that are no longer needed."""
        if checkpoint is not None:
            target = storage.join(self.folder, f"checkpoint_{datetime.now():%Y-%m-%d_%H-%M-%S.%f}")
            store_checkpoint(checkpoint, target)
            self._remove_old()

    def keep(self, checkpoint: Path | None) -> None:
        """As `report`."""
        self.report({}, checkpoint)

    def preempted(self) -> bool:
        """Never."""
        return False

    def checkpoints(self) -> list[str]:
        """URIs of the checkpoints, newest first."""
        return newest_first(self.folder)

    def log(self, line: str) -> None:
        """Print it."""
        self._wait.heard()
        echo(line, err=True)

    def note(self, doing: str) -> None:
        """Change what a user waits for."""
        self._wait.what = doing

    def _remove_old(self) -> None:
        """Keep the newest checkpoint, the best ones, and those that Ray Train relies on when it resumes."""
        newest, *others = self.checkpoints()
        scores = {uri: score(uri) for uri in (newest, *others)}
        best = sorted(scores, key=lambda uri: scores[uri], reverse=True)[:CHECKPOINTS_KEPT]
        known_to_ray = _ray_snapshot(self.folder)
        for uri in others:
            if uri not in best and uri.rpartition("/")[2] not in known_to_ray:
                storage.delete_tree(uri)


class RaySession:
    """A worker of a `TorchTrainer`.

    Args:
        folder: where Ray keeps the run's checkpoints.
        log_collector: handle of the actor that receives lines.
        watched: whether Ray Train watches the machines: a run on a single one does without.
    """

    def __init__(self, folder: str, log_collector: LogActor, *, watched: bool = False) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.folder, self.log_collector, self._watched = folder, log_collector, watched

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        """Hand both to Ray Train, which uploads the folder to the run's storage."""
        import ray.train

        uploaded = ray.train.Checkpoint.from_directory(str(checkpoint)) if checkpoint is not None else None
        ray.train.report(dict(metrics), checkpoint=uploaded)

    def keep(self, checkpoint: Path | None) -> None:
        """As a checkpoint that Ray Train replaces by any later one."""
        RaySession.report(self, {"miou": -1.0}, checkpoint)

    def preempted(self) -> bool:
        """As Ray Train was told by the cluster; the workers agree on it."""
        import ray.train

        return self._watched and ray.train.get_preemption_info() is not None

    def checkpoints(self) -> list[str]:
        """All checkpoints in the folder, those of an earlier driver and incomplete copies included."""
        return newest_first(self.folder)

    def log(self, line: str) -> None:
        """Send it to the driver."""
        self.log_collector.write.remote(line)

    def note(self, doing: str) -> None:
        """Send it to the driver."""
        if self.rank == 0:
            self.log_collector.note.remote(doing)


def once(write: Callable[[str], None]) -> Callable[[str], None]:
    """The same function for the first line alone, where one stands for all."""
    lines: list[str] = []

    def first(line: str) -> None:
        if not lines:
            write(line)
        lines.append(line)

    return first


class Notes:
    """Tells the session from time to time how much of something is done.

    Args:
        session: of the worker.
        what: what is being done, such as "steps 1 to 400 of 4000".
    """

    def __init__(self, session: Session, what: str) -> None:
        self._session, self._what, self._next = session, what, 0.0

    def show(self, done: int) -> None:
        """So many are done; cheap, for it tells only every few seconds."""
        now = time.monotonic()
        if now >= self._next:
            self._session.note(f"{self._what}, {done} done")
            self._next = now + _NOTE_S


def _ray_snapshot(folder: str) -> str:
    """The text in which Ray Train lists its checkpoints: without one of them it refuses to resume."""
    try:
        return storage.read_bytes(storage.join(folder, "checkpoint_manager_snapshot.json")).decode()
    except FileNotFoundError:
        return ""


def newest_first(folder: str) -> list[str]:
    """URIs of the checkpoints in a folder, newest first; their names sort by time."""
    names = [name for name in storage.list_names(folder) if name.startswith("checkpoint_")]
    return [storage.join(folder, name) for name in sorted(names, reverse=True)]


def sum_over_workers(values: Tensor) -> Tensor:
    """The sum of a tensor over all workers; with one worker, the tensor itself."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def max_over_workers(values: Tensor) -> Tensor:
    """The greatest value of each element over all workers; with one worker, the tensor itself."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def device_of_worker() -> torch.device:
    """The GPU that this worker was assigned, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
