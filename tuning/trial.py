"""A trial: a light driver under Ray Tune that launches one Ray Train run per seed.

Tune never stops a running trial: a killed trainer leaves its placement group reserved until Ray's own cleaner
removes it, which needs the dashboard. Instead, the training workers ask the `TrialCoordinator` after each
validation, and a stopped trial ends like a finished one. Ray's `TuneReportCallback` would take the figures to
Tune through the trainer's controller and a queue, one more process per trial, and bring no decision back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import TuneConfig
from segray.pipelines.engine import cluster
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.run_folder import CHECKPOINTS, RunFolder
from segray.pipelines.training.session import Metrics, RaySession
from segray.pipelines.training.trainer import scaling_config, torch_trainer, tracker_folder
from segray.tuning.records import Outcome, Run, Trial

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup

    from segray.pipelines.training.failures import Failure

STOPPED = "stopped: behind the other trials of its split"


@dataclass(frozen=True)
class RunSpec:
    """One training of a trial: its configuration, and a reference to the `TrainingData` that trials share."""

    config: TrainConfig
    data: ObjectRef


@dataclass(frozen=True)
class Assignment:
    """What the driver of a trial has to do; `may_stop`: the scheduler judges its first run."""

    trial: Trial
    runs: Sequence[RunSpec]
    may_stop: bool


class TrialCoordinator:
    """The actor between the search, the drivers of its trials and their training workers.

    Args:
        config: the search.
        finished: the trials of earlier commands.
    """

    def __init__(self, config: TuneConfig, finished: Sequence[Trial]) -> None:
        from segray.tuning.asha import PerSplitASHA

        self._scheduler = PerSplitASHA(config, finished)
        self._assignments: dict[str, Assignment] = {}
        self._progress: dict[str, tuple[float, float]] = {}
        self._groups: dict[str, PlacementGroup] = {}

    def assign(self, assignment: Assignment) -> None:
        """Keep what a driver will ask for."""
        self._assignments[assignment.trial.file] = assignment

    def assignment(self, file: str) -> Assignment:
        """What the driver of a trial has to do."""
        return self._assignments[file]

    def report(self, file: str, epoch: float, miou: float, may_stop: bool) -> bool:
        """Take a worker's report of a validation; the decision: whether the trial stops.

        All workers of a trial report, with the same figures, and get the same decision.
        """
        self._progress[file] = (epoch, miou)
        return may_stop and self._scheduler.stops(self._assignments[file].trial, epoch, miou)

    def progress(self) -> dict[str, tuple[float, float]]:
        """(epoch, mIoU) of each trial's last report."""
        return self._progress

    def hold(self, file: str, group: PlacementGroup) -> None:
        """Remember the placement group of a trial's workers."""
        self._groups[file] = group

    def release(self, file: str) -> PlacementGroup | None:
        """Forget a trial's placement group, and return it for removal."""
        return self._groups.pop(file, None)


class StoppedError(Exception):
    """The scheduler stops this trial."""


class TrialSession(RaySession):
    """A training worker's session that asks the coordinator whether to continue.

    Args:
        folder: where Ray keeps the run's checkpoints.
        coordinator: the search's `TrialCoordinator`.
        file: the trial.
        may_stop: whether this run of the trial may be stopped.
    """

    def __init__(self, folder: str, coordinator: ActorHandle, file: str, may_stop: bool) -> None:
        from ray.util import get_current_placement_group

        super().__init__(folder, coordinator)
        self._coordinator, self._file, self._may_stop = coordinator, file, may_stop
        if self.rank == 0:
            coordinator.hold.remote(file, get_current_placement_group())

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        """Report to Ray Train, then to the coordinator.

        Raises:
            StoppedError: the scheduler stops the trial; on all workers, or on none.
        """
        import ray

        super().report(metrics, checkpoint)
        epoch, miou = float(metrics["epoch"] or 0.0), float(metrics["miou"] or 0.0)
        if ray.get(self._coordinator.report.remote(self._file, epoch, miou, self._may_stop)):
            raise StoppedError

    def log(self, line: str) -> None:
        """Print nothing: the search has its own table."""

    def note(self, doing: str) -> None:
        """Tell nobody: the search says itself what is running."""


@dataclass(frozen=True)
class WorkerInputs:
    """What each training worker of a trial receives."""

    config: TrainConfig
    data: TrainingData
    coordinator: ActorHandle
    file: str
    may_stop: bool


def trial_worker(inputs: WorkerInputs) -> Failure | str | None:
    """Train as one worker of a trial; the reason where the run ended early, a failure where it cannot end."""
    from segray.pipelines.training.failures import lasting_failure
    from segray.pipelines.training.loop import Trainer
    from segray.pipelines.training.meter import DivergedError

    config = inputs.config
    checkpoints = storage.join(config.out, CHECKPOINTS)
    session = TrialSession(checkpoints, inputs.coordinator, inputs.file, inputs.may_stop)
    try:
        Trainer(config, inputs.data, session, tracker_folder(config)).run()
    except StoppedError:
        return STOPPED
    except DivergedError as error:
        return str(error)
    except Exception as error:
        failure = lasting_failure(error)
        if failure is None or session.workers > 1:
            raise
        return failure
    return None


class TrialConfig(TypedDict):
    """A trial's configuration in Ray Tune: the rest is in its `Assignment`."""

    file: str


def drive(trial: TrialConfig, coordinator: ActorHandle) -> None:
    """Tune's trainable: train with each seed in turn, and report the outcome."""
    import ray
    from ray import tune

    assignment: Assignment = ray.get(coordinator.assignment.remote(trial["file"]))
    tune.report({"outcome": outcome(assignment, coordinator)})


def outcome(assignment: Assignment, coordinator: ActorHandle) -> Outcome:
    """Train all runs of a trial.

    A crash is an outcome and not raised, so that the table shows a one-line reason and the search continues.
    """
    runs: list[Run] = []
    for index, spec in enumerate(assignment.runs):
        try:
            run, ended = _train(spec, assignment, coordinator, may_stop=assignment.may_stop and index == 0)
        except Exception as error:  # noqa: BLE001  whatever ends one trial must not end the search
            return Outcome("crashed", cause(error), runs)
        runs += [run] if run else []
        if ended:
            return Outcome("stopped" if ended == STOPPED else "diverged", ended, runs)
    return Outcome("done", runs=runs)


def _train(
    spec: RunSpec, assignment: Assignment, coordinator: ActorHandle, *, may_stop: bool
) -> tuple[Run | None, str | None]:
    """One run to its end: its record, if it was validated at all, and the reason where it ended early."""
    import ray

    data: TrainingData = ray.get(spec.data)
    folder = RunFolder(spec.config)
    folder.check(may_move=True)
    # No run lock: the search's lock covers its trials, and theirs would outlive a driver lost with its node.
    folder.begin(data)
    inputs = WorkerInputs(spec.config, data, coordinator, assignment.trial.file, may_stop)
    ended = None if folder.finished() else _fit(inputs)
    folder.export()
    return _record(folder, len(data.labelled)), ended


def _fit(inputs: WorkerInputs) -> str | None:
    from segray.pipelines.training.failures import Failure

    workers = scaling_config(inputs.config, cluster.resources())
    result = torch_trainer(inputs.config, partial(trial_worker, inputs), workers).fit()
    reason: Failure | str | None = result.return_value
    if isinstance(reason, Failure):
        raise UserError(reason.message)
    return reason


def _record(folder: RunFolder, labelled: int) -> Run | None:
    states = folder.states()
    if not states:
        return None
    history = max(states.values(), key=lambda state: state["step"])["history"]
    curve = [(entry["epoch"], entry["miou"] or 0.0) for entry in history]
    return Run(
        seed=folder.config.seed,
        miou=curve[-1][1],
        best=max(miou for _, miou in curve),
        epoch=curve[-1][0],
        epochs=folder.config.train.epochs,
        curve=curve,
        labelled=labelled,
        zero_shot=history[-1].get("zero_shot_miou"),
        seconds=sum(entry["seconds"] for entry in history),
    )


def cause(error: BaseException) -> str:
    """Why a trial crashed, in one line: what its worker raised, where one did."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    inner = next(iter(failures.values()), error)
    inner = getattr(inner, "cause", None) or inner
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()] or [""]
    reason = lines[0] if isinstance(inner, UserError) else f"{type(inner).__name__}: {lines[-1]}"
    return reason[:200].rstrip(": ")
