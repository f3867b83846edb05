"""A plan on Ray Tune: Tune starts the drivers of its trials, limits their number, and restarts dead ones."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune import Callback
from ray.tune.search import Searcher

from segray.pipelines.config.commands.tune import TuneConfig
from segray.pipelines.errors import UserError
from segray.tuning.plans import Job, Plan
from segray.tuning.records import Outcome, Trial
from segray.tuning.trial import TrialConfig, TrialRun, cause, drive, free_workers

_DRIVER_MEMORY = 64 * 2**20
"""What Ray reserves for a trial's driver. Every node has memory; a share of a CPU would leave less than a
whole CPU for the trainer beside it."""

Heartbeat = Callable[[Sequence[Trial], Callable[[], Mapping[str, tuple[float, float]]]], None]
"""Called often, with the running trials and a function that gets their (epoch, mIoU)."""


class Tuner:
    """Runs plans on the cluster that this process is connected to.

    Args:
        config: the search.
        coordinator: a `TrialCoordinator`.
        concurrent: number of trials at a time.
        assign: what the driver of a job trains; raises a UserError where a value does not fit the data.
        heartbeat: shows what is running.
    """

    def __init__(
        self,
        config: TuneConfig,
        coordinator: ActorHandle,
        concurrent: int,
        assign: Callable[[Job], Sequence[TrialRun]],
        heartbeat: Heartbeat,
    ) -> None:
        self._config, self._concurrent = config, concurrent
        self.assign, self.heartbeat = assign, heartbeat
        self.coordinator = coordinator

    def fit(self, plan: Plan) -> None:
        """Train all jobs of a plan."""
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        trainable = tune.with_parameters(drive, coordinator=self.coordinator)
        bundles = tune.PlacementGroupFactory([{"memory": _DRIVER_MEMORY}])
        jobs = _Jobs(plan, self)
        with tempfile.TemporaryDirectory(prefix="segray-tune-") as folder:
            tune.Tuner(
                tune.with_resources(trainable, bundles),
                tune_config=tune.TuneConfig(
                    search_alg=jobs,
                    num_samples=-1,
                    max_concurrent_trials=self._concurrent,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=folder,
                    verbose=0,
                    callbacks=[_OnStep(jobs.show)],
                    failure_config=tune.FailureConfig(max_failures=self._config.train.max_failures),
                ),
            ).fit()


class _Jobs(Searcher):
    """Tune's searcher: hands out the jobs of a plan, and takes their outcomes."""

    def __init__(self, plan: Plan, tuner: Tuner) -> None:
        super().__init__()
        self._plan, self._tuner = plan, tuner
        self._running: dict[str, Trial] = {}

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        # Tune keeps copies for a resume of its own, which no search uses.
        return Searcher, ()

    def suggest(self, trial_id: str) -> TrialConfig | str:
        """The next driver's configuration; what it trains is then with the coordinator."""
        while (job := self._plan.next()) is not None:
            try:
                runs = self._tuner.assign(job)
            except UserError as error:
                self._plan.end(job.trial, Outcome("crashed", cause(error)))
                continue
            ray.get(self._tuner.coordinator.assign.remote(job.trial.file, runs))
            self._running[trial_id] = job.trial
            return {"file": job.trial.file}
        return str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, object] | None = None, error: bool = False
    ) -> None:
        """A driver has reported the outcome, or died too often."""
        trial = self._running.pop(trial_id)
        outcome = (result or {}).get("outcome")
        if not isinstance(outcome, Outcome):
            free_workers(self._tuner.coordinator, trial.file)
            outcome = Outcome("crashed", "its driver died" if error else "it ended without an outcome")
        self._plan.end(trial, outcome)

    def show(self) -> None:
        """Show what is running."""
        progress = self._tuner.coordinator.progress
        self._tuner.heartbeat(list(self._running.values()), lambda: ray.get(progress.remote()))


class _OnStep(Callback):
    """Calls a function about once per second."""

    def __init__(self, show: Callable[[], None]) -> None:
        self._show = show

    def on_step_end(self, **_: object) -> None:
        """Tune has handled its events."""
        self._show()
