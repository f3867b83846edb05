"""Curves for TensorBoard, MLflow and Weights & Biases; one entry a validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import identity
from segray.pipelines.errors import UserError

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""The package that each tracker needs; TensorBoard's comes with Ray."""


class Tracker(Protocol):
    """Where figures go."""

    def add(self, figures: dict[str, float], step: int) -> None:
        """StepMetrics of one step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class _TensorBoard:
    def __init__(self, config: TrainConfig, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=str(folder))
        self._writer.add_text("config", str(identity(config)))

    def add(self, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """A run on the server that MLFLOW_TRACKING_URI names, else in a database in the folder."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        import mlflow

        folder.mkdir(parents=True, exist_ok=True)
        if "MLFLOW_TRACKING_URI" not in os.environ:
            # MLflow's own choice is the working folder, which on a worker is one of Ray's and goes with it.
            mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.set_experiment("segray")
        known = folder / "run-id"
        run = mlflow.start_run(
            run_id=known.read_text() if known.exists() else None, run_name=Path(config.out).name
        )
        known.write_text(run.info.run_id)
        mlflow.log_params({k: str(v)[:500] for k, v in identity(config).items()})
        self._mlflow = mlflow

    def add(self, figures: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics({k.replace("/", "."): v for k, v in figures.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class _WandB:
    def __init__(self, config: TrainConfig, folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        known = folder / "run-id"
        self._run = wandb.init(
            project="segray",
            id=known.read_text() if known.exists() else None,
            resume="allow",
            name=Path(config.out).name,
            dir=folder,
            config=identity(config),
        )
        known.write_text(self._run.id)

    def add(self, figures: dict[str, float], step: int) -> None:
        self._run.log(figures, step=step)

    def close(self) -> None:
        self._run.finish()


_KINDS: dict[str, Callable[[TrainConfig, Path], Tracker]] = {
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
    """All trackers of a run, each with a folder of its name; none where `folder` is None.

    A run that goes on after a stop goes on in the same run of MLflow and of Weights & Biases.
    """

    def __init__(self, config: TrainConfig, folder: str | None) -> None:
        names = config.trackers if folder else ()
        self._all: list[Tracker] = [_KINDS[name](config, Path(folder or "", name)) for name in names]

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._all:
            tracker.close()

    def add(self, entry: dict[str, Any], classes: Sequence[str]) -> None:
        """Every number of an entry, and the IoU of each class."""
        figures = {k: float(v) for k, v in entry.items() if isinstance(v, int | float)}
        named = zip(classes, entry["iou"], strict=True)
        figures |= {f"iou/{name}": v for name, v in named if v is not None}
        for tracker in self._all:
            tracker.add(figures, entry["step"])
