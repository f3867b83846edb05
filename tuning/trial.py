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
from segray.pipelines.training.trainer import fit, tracker_folder
from segray.tuning.records import Outcome, Run, Trial

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup

    from segray.pipelines.training.failures import Failure

STOPPED = "stopped: behind the other trials of its split"


@dataclass(frozen=True)
class TrialRun:
    """One training of a trial.

    Attributes:
        trial: that it belongs to.
        config: of the training.
        data: reference to the `TrainingData` that trials share.
        may_stop: whether the scheduler may stop it.
    """

    trial: Trial
    config: TrainConfig
    data: ObjectRef
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
        self._runs: dict[str, Sequence[TrialRun]] = {}
        self._progress: dict[str, tuple[float, float]] = {}
        self._groups: dict[str, PlacementGroup] = {}

    def assign(self, file: str, runs: Sequence[TrialRun]) -> None:
        """Keep what a driver will ask for."""
        self._runs[file] = runs

    def runs(self, file: str) -> Sequence[TrialRun]:
        """What the driver of a trial trains."""
        return self._runs[file]

    def report(self, trial: Trial, epoch: float, miou: float, may_stop: bool) -> bool:
        """Take a worker's report of a validation; the decision: whether the trial stops.

        All workers of a trial report, with the same figures, and get the same decision.
        """
        self._progress[trial.file] = (epoch, miou)
        return may_stop and self._scheduler.stops(trial, epoch, miou)

    def progress(self) -> dict[str, tuple[float, float]]:
        """(epoch, mIoU) of each trial's last report."""
        return self._progress

    def hold(self, file: str, group: PlacementGroup) -> None:
        """Remember the placement group of a trial's workers."""
        self._groups[file] = group

    def release(self, file: str) -> PlacementGroup | None:
        """Forget a trial's placement group, and return it for removal."""
        return self._groups.pop(file, None)


def free_workers(coordinator: ActorHandle, file: str) -> None:
    """Remove the placement group that a trial's dead driver left: its next driver would wait for it."""
    import ray

    if (group := ray.get(coordinator.release.remote(file))) is not None:
        ray.util.remove_placement_group(group)


class StoppedError(Exception):
    """The scheduler stops this trial."""


class TrialSession(RaySession):
    """A training worker's session that asks the coordinator whether to continue."""

    def __init__(self, run: TrialRun, coordinator: ActorHandle) -> None:
        from ray.util import get_current_placement_group

        super().__init__(storage.join(run.config.out, CHECKPOINTS), coordinator)
        self._run, self._coordinator = run, coordinator
        if self.rank == 0:
            coordinator.hold.remote(run.trial.file, get_current_placement_group())

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        """Report to Ray Train, then to the coordinator.

        Raises:
            StoppedError: the scheduler stops the trial; on all workers, or on none.
        """
        import ray

        super().report(metrics, checkpoint)
        epoch, miou = float(metrics["epoch"] or 0.0), float(metrics["miou"] or 0.0)
        report = self._coordinator.report.remote(self._run.trial, epoch, miou, self._run.may_stop)
        if ray.get(report):
            raise StoppedError

    def log(self, line: str) -> None:
        """Print nothing: the search has its own table."""

    def note(self, doing: str) -> None:
        """Tell nobody: the search says itself what is running."""


def trial_worker(run: TrialRun, data: TrainingData, coordinator: ActorHandle) -> Failure | str | None:
    """Train as one worker of a trial; the reason where the run ended early, a failure where it cannot end."""
    from segray.pipelines.training.failures import lasting_failure
    from segray.pipelines.training.loop import Trainer
    from segray.pipelines.training.meter import DivergedError

    session = TrialSession(run, coordinator)
    try:
        Trainer(run.config, data, session, tracker_folder(run.config)).run()
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
    """A trial's configuration in Ray Tune: the coordinator has the rest."""

    file: str


def drive(trial: TrialConfig, coordinator: ActorHandle) -> None:
    """Tune's trainable: train with each seed in turn, and report the outcome."""
    import ray
    from ray import tune

    free_workers(coordinator, trial["file"])
    tune.report({"outcome": outcome(ray.get(coordinator.runs.remote(trial["file"])), coordinator)})


def outcome(runs: Sequence[TrialRun], coordinator: ActorHandle) -> Outcome:
    """Train all runs of a trial.

    A crash is an outcome and not raised, so that the table shows a one-line reason and the search continues.
    """
    records: list[Run] = []
    for run in runs:
        try:
            record, ended = _train(run, coordinator)
        except Exception as error:  # noqa: BLE001  whatever ends one trial must not end the search
            return Outcome("crashed", cause(error), records)
        records += [record] if record else []
        if ended:
            return Outcome("stopped" if ended == STOPPED else "diverged", ended, records)
    return Outcome("done", runs=records)


def _train(run: TrialRun, coordinator: ActorHandle) -> tuple[Run | None, str | None]:
    """One run to its end: its record, if it was validated at all, and the reason where it ended early."""
    import ray

    data: TrainingData = ray.get(run.data)
    folder = RunFolder(run.config)
    folder.check(may_move=True)
    # No run lock: the search's lock covers its trials, and theirs would outlive a driver lost with its node.
    folder.begin(data)
    ended = None if folder.finished() else _fit(run, data, coordinator)
    folder.export()
    return _record(folder, len(data.labelled)), ended


def _fit(run: TrialRun, data: TrainingData, coordinator: ActorHandle) -> str | None:
    from segray.pipelines.training.failures import Failure

    reason = fit(run.config, partial(trial_worker, run, data, coordinator), cluster.resources())
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
