"""A plan on Ray Tune: Tune starts the drivers of its trials, limits their number, and restarts dead ones."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from segray.pipelines.config.commands.tune import TuneConfig
from segray.pipelines.errors import UserError
from segray.tuning.plans import Job, Plan
from segray.tuning.records import Outcome, Trial
from segray.tuning.trial import Assignment, TrialConfig, TrialCoordinator, drive

_DRIVER_MEMORY = 64 * 2**20
"""What Ray reserves for a trial's driver. Every node has memory; a share of a CPU would leave less than a
whole CPU for the trainer beside it."""

Heartbeat = Callable[[Sequence[Trial], Callable[[], Mapping[str, tuple[float, float]]]], None]
"""Called often, with the running trials and a function that gets their (epoch, mIoU)."""


class Tuner:
    """Runs plans on the cluster that this process is connected to.

    Args:
        config: the search.
        finished: the trials of earlier commands.
        concurrent: number of trials at a time.
        assign: makes the assignment of a job.
        heartbeat: shows what is running.
    """

    def __init__(
        self,
        config: TuneConfig,
        finished: Sequence[Trial],
        concurrent: int,
        assign: Callable[[Job], Assignment],
        heartbeat: Heartbeat,
    ) -> None:
        self._config, self._concurrent = config, concurrent
        self._assign, self._heartbeat = assign, heartbeat
        self._coordinator = _start_coordinator(config, finished)

    def fit(self, plan: Plan) -> None:
        """Train all jobs of a plan."""
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        trainable = tune.with_parameters(drive, coordinator=self._coordinator)
        bundles = tune.PlacementGroupFactory([{"memory": _DRIVER_MEMORY}])
        jobs = _Jobs(plan, self._assign, self._coordinator)
        with tempfile.TemporaryDirectory(prefix="segray-tune-") as folder:
            tune.Tuner(
                tune.with_resources(trainable, bundles),
                tune_config=tune.TuneConfig(
                    search_alg=_JobSearcher(jobs),
                    num_samples=-1,
                    max_concurrent_trials=self._concurrent,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=folder,
                    verbose=0,
                    callbacks=[_JobCallback(jobs, self._heartbeat)],
                    failure_config=tune.FailureConfig(max_failures=self._config.train.max_failures),
                ),
            ).fit()


class _Jobs:
    """The jobs of a plan while they run, by the trial's folder."""

    def __init__(self, plan: Plan, assign: Callable[[Job], Assignment], coordinator: ActorHandle) -> None:
        self._plan, self._assign, self._coordinator = plan, assign, coordinator
        self.running: dict[str, Trial] = {}

    def next(self) -> TrialConfig | None:
        """Tune's configuration of the next job, which the coordinator then has; None: there is none left."""
        while (job := self._plan.next()) is not None:
            try:
                assignment = self._assign(job)
            except UserError as error:
                self._plan.end(job.trial, Outcome("crashed", _one_line(error)))
                continue
            ray.get(self._coordinator.assign.remote(assignment))
            self.running[job.trial.file] = job.trial
            return {"file": job.trial.file}
        return None

    def end(self, file: str, outcome: Outcome) -> None:
        """Record a trial's outcome."""
        self._plan.end(self.running.pop(file), outcome)

    def free(self, file: str) -> None:
        """Remove the placement group of a trial whose driver died: its next driver would wait for it."""
        group = ray.get(self._coordinator.release.remote(file))
        if group is not None:
            ray.util.remove_placement_group(group)

    def progress(self) -> Mapping[str, tuple[float, float]]:
        """(epoch, mIoU) of each trial's last report."""
        progress: dict[str, tuple[float, float]] = ray.get(self._coordinator.progress.remote())
        return progress


class _JobSearcher(Searcher):
    """Tune's searcher: hands out the jobs."""

    def __init__(self, jobs: _Jobs) -> None:
        super().__init__()
        self._jobs = jobs

    def suggest(self, trial_id: str) -> TrialConfig | str:  # noqa: ARG002
        """The configuration of the next driver."""
        return self._jobs.next() or str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, *_: object, **__: object) -> None:
        """Nothing to do: the callback records the outcome."""


class _JobCallback(Callback):
    """Tune's callback: records outcomes."""

    def __init__(self, jobs: _Jobs, heartbeat: Heartbeat) -> None:
        self._jobs, self._heartbeat = jobs, heartbeat

    def on_trial_recover(self, *, trial: TuneTrial, **_: object) -> None:
        """Its driver died, and will be started again on the same checkpoints."""
        self._jobs.free(trial.config["file"])

    def on_trial_complete(self, *, trial: TuneTrial, **_: object) -> None:
        """Its driver has reported the outcome."""
        unknown = Outcome("crashed", "it ended without an outcome")
        self._jobs.end(trial.config["file"], trial.last_result.get("outcome", unknown))

    def on_trial_error(self, *, trial: TuneTrial, **_: object) -> None:
        """Its driver died too often."""
        self._jobs.free(trial.config["file"])
        reason = f"its driver died: {type(trial.get_pickled_error()).__name__}"
        self._jobs.end(trial.config["file"], Outcome("crashed", reason))

    def on_step_end(self, **_: object) -> None:
        """Called about once per second."""
        self._heartbeat(list(self._jobs.running.values()), self._jobs.progress)


def _start_coordinator(config: TuneConfig, finished: Sequence[Trial]) -> ActorHandle:
    """A coordinator on this node, which the search cannot outlive."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here)(TrialCoordinator)
    return actor.remote(config, finished)


def _one_line(error: Exception) -> str:
    """The message of an error, short enough for a table."""
    return " ".join(str(error).split())[:200]
