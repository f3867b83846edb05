"""Curves in TensorBoard, MLflow and Weights & Biases, one point per validation.

The package of a tracker is imported only when the tracker is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Protocol

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import identity
from segray.pipelines.errors import UserError
from segray.pipelines.training.history import HistoryEntry

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""The package that each tracker needs; TensorBoard's comes with Ray."""


class Tracker(Protocol):
    """Receives the metrics of a run."""

    def add(self, metrics: dict[str, float], step: int) -> None:
        """Record the metrics of a step by name."""
        ...

    def close(self) -> None:
        """Flush and end."""
        ...


class _TensorBoard:
    def __init__(self, config: TrainConfig, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=str(folder))
        self._writer.add_text("config", str(identity(config)))

    def add(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """A run on the server that MLFLOW_TRACKING_URI names, else in a database in the folder."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        import mlflow

        folder.mkdir(parents=True, exist_ok=True)
        if "MLFLOW_TRACKING_URI" not in os.environ:
            # MLflow's default is the working folder, which on a worker is Ray's and is deleted with it.
            mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.set_experiment("segray")
        run = mlflow.start_run(run_id=_read_run_id(folder), run_name=Path(config.out).name)
        _write_run_id(folder, run.info.run_id)
        mlflow.log_params({k: str(v)[:500] for k, v in identity(config).items()})
        self._mlflow = mlflow

    def add(self, metrics: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics({k.replace("/", "."): v for k, v in metrics.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class _WandB:
    def __init__(self, config: TrainConfig, folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project="segray",
            id=_read_run_id(folder),
            resume="allow",
            name=Path(config.out).name,
            dir=folder,
            config=identity(config),
        )
        _write_run_id(folder, self._run.id)

    def add(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        self._run.finish()


def _read_run_id(folder: Path) -> str | None:
    path = folder / "run-id"
    return path.read_text() if path.exists() else None


def _write_run_id(folder: Path, run_id: str) -> None:
    (folder / "run-id").write_text(run_id)


_TRACKERS: dict[str, Callable[[TrainConfig, Path], Tracker]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _WandB,
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise a UserError for a tracker whose package is missing."""
    for name in names:
        if find_spec(PACKAGES[name]) is None:
            raise UserError(f'trackers={name} needs {PACKAGES[name]}: pip install "segray[{name}]"')


class Trackers:
    """All trackers of a run, each with a folder of its name.

    A run that resumes continues the same run of MLflow and of Weights & Biases.

    Args:
        config: the run.
        folder: local folder of the run; None: no trackers.
    """

    def __init__(self, config: TrainConfig, folder: str | None) -> None:
        names = config.trackers if folder else ()
        self._trackers = [_TRACKERS[name](config, Path(folder or "", name)) for name in names]

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers:
            tracker.close()

    def add(self, entry: HistoryEntry, classes: Sequence[str]) -> None:
        """Record every number of an entry, and the IoU of each class by its name."""
        metrics = {k: float(v) for k, v in entry.items() if isinstance(v, int | float)}
        by_class = zip(classes, entry["iou"], strict=True)
        metrics |= {f"iou/{name}": iou for name, iou in by_class if iou is not None}
        for tracker in self._trackers:
            tracker.add(metrics, entry["step"])
