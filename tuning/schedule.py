"""The search as Ray Tune sees it: who names the next trial, who stops weak ones, who keeps the outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from segray.pipelines.config.commands.tune import TuneConfig
from segray.tuning.ledger import Trial

GRACE_PART = 9
"""A trial may be stopped after this part of its epochs, where nothing else is said."""


class Plan(Protocol):
    """What the search does next, and what became of it."""

    def next(self) -> tuple[Trial, dict[str, Any]] | None:
        """The next trial and what its driver is given; None: there is none left."""
        ...

    def ended(self, trial: Trial, outcome: Mapping[str, Any]) -> None:
        """Take a trial's outcome."""
        ...


class TrialSearcher(Searcher):
    """Tune's searcher: hands out what the plan says, and remembers who got it."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(metric="miou", mode="max")
        self._plan = plan
        self.given: dict[str, tuple[Trial, dict[str, Any]]] = {}
        self._ended: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """What the trial's driver is given."""
        job = self._plan.next()
        if job is None:
            return Searcher.FINISHED
        self.given[trial_id] = job
        given: dict[str, Any] = job[1]
        return given

    def running(self) -> list[Trial]:
        """Who got something and has not ended."""
        return [trial for trial_id, (trial, _) in self.given.items() if trial_id not in self._ended]

    def on_trial_complete(self, trial_id: str, *_: Any, **__: Any) -> None:
        """The plan hears of it from `Watch`."""
        self._ended.add(trial_id)


class PerSplitASHA(FIFOScheduler):
    """One ASHA a split, so that a trial with few labels never competes with one that has many.

    Trials are not ended by Tune: the verdict is handed to the trial's workers, who ask for it.

    Args:
        config: the search.
        suggestions: who is who.
        judge: called with file, epoch and whether to stop.
    """

    def __init__(
        self, config: TuneConfig, suggestions: TrialSearcher, judge: Callable[[str, float, bool], None]
    ) -> None:
        super().__init__()
        self._config, self._suggestions, self._judge = config, suggestions, judge
        self._by_split: dict[str, ASHAScheduler] = {}
        self._known: set[str] = set()
        self.latest: dict[str, tuple[float, float]] = {}

    def replay(self, trials: list[Trial]) -> None:
        """Let trials of an earlier command count as they did then."""
        for trial in trials:
            for epoch, miou in trial.runs[0].curve if trial.runs else ():
                self._falls_behind(trial, epoch, miou)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        """Tell the workers whether to go on; Tune is always told that they do."""
        record, given = self._suggestions.given[trial.trial_id]
        if "epoch" in result:
            epoch, miou = float(result["epoch"]), float(result["miou"])
            self.latest[record.file] = (epoch, miou)
            behind = given["judged"] and self._falls_behind(record, epoch, miou)
            self._judge(record.file, epoch, behind)
        return str(TrialScheduler.CONTINUE)

    def _falls_behind(self, trial: Trial, epoch: float, miou: float) -> bool:
        if self._config.search.scheduler == "none":
            return False
        asha = self._by_split.setdefault(trial.split, self._asha())
        same = SimpleNamespace(trial_id=trial.file)
        if trial.file not in self._known:
            self._known.add(trial.file)
            asha.on_trial_add(None, same)
        decided = asha.on_trial_result(None, same, {"epoch": epoch, "miou": miou})
        # The configuration as it stands is what the others are measured against.
        last = epoch >= self._config.train.epochs
        return decided == TrialScheduler.STOP and trial.number > 0 and not last

    def _asha(self) -> ASHAScheduler:
        search, epochs = self._config.search, self._config.train.epochs
        return ASHAScheduler(
            time_attr="epoch",
            metric="miou",
            mode="max",
            max_t=epochs,
            grace_period=min(epochs, search.grace or max(1, round(epochs / GRACE_PART))),
            reduction_factor=search.reduction,
            stop_last_trials=False,
        )


class Watch(Callback):
    """Tells the plan what became of each trial, and frees what a dead driver's workers held.

    Args:
        plan: what is told.
        suggestions: who is who.
        beat: called often.
        release: called with the file of a trial whose driver has died.
    """

    def __init__(
        self,
        plan: Plan,
        suggestions: TrialSearcher,
        beat: Callable[[], None],
        release: Callable[[str], None],
    ) -> None:
        self._plan, self._suggestions, self._beat, self._release = plan, suggestions, beat, release

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Its driver died and will be started again, on the same checkpoints."""
        self._release(self._suggestions.given[trial.trial_id][0].file)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Its driver reported an outcome as its last words."""
        record, _ = self._suggestions.given[trial.trial_id]
        unknown = {"state": "crashed", "reason": "it ended without an outcome", "runs": []}
        self._plan.ended(record, trial.last_result.get("outcome", unknown))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Its driver died."""
        record, _ = self._suggestions.given[trial.trial_id]
        self._release(record.file)
        reason = f"its driver died: {type(trial.get_pickled_error()).__name__}"
        self._plan.ended(record, {"state": "crashed", "reason": reason, "runs": []})

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        """A moment to show a sign of life."""
        self._beat()
