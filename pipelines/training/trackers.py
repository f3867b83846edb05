"""Curves for TensorBoard, MLflow and Weights & Biases; one entry a validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Protocol

from pipelines.config.loading import identity
from pipelines.config.train import TrainConfig
from pipelines.errors import UserError

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""The package that each tracker needs; TensorBoard's comes with Ray."""


class Tracker(Protocol):
    """Where figures go."""

    def add(self, figures: dict[str, float], step: int) -> None:
        """Figures of one step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class _TensorBoard:
    def __init__(self, config: TrainConfig, folder: str) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=folder)
        self._writer.add_text("config", str(identity(config)))

    def add(self, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    def __init__(self, config: TrainConfig, folder: str) -> None:  # noqa: ARG002  one signature for all
        import mlflow

        self._mlflow = mlflow
        mlflow.start_run(run_name=config.out)
        mlflow.log_params({k: str(v)[:500] for k, v in identity(config).items()})

    def add(self, figures: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics({k.replace("/", "."): v for k, v in figures.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class _WandB:
    def __init__(self, config: TrainConfig, folder: str) -> None:
        import wandb

        self._run = wandb.init(project="segray", name=config.out, dir=folder, config=identity(config))

    def add(self, figures: dict[str, float], step: int) -> None:
        self._run.log(figures, step=step)

    def close(self) -> None:
        self._run.finish()


_KINDS: dict[str, Callable[[TrainConfig, str], Tracker]] = {
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
    """All trackers of a run; none where `folder` is None."""

    def __init__(self, config: TrainConfig, folder: str | None) -> None:
        self._all: list[Tracker] = [_KINDS[n](config, folder) for n in config.trackers] if folder else []

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
