"""Early stopping: Ray Tune's ASHA, once per split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from types import SimpleNamespace

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from segray.pipelines.config.commands.tune import TuneConfig
from segray.tuning.records import Trial

GRACE_PART = 9
"""By default a trial may be stopped after this part of its epochs."""


class PerSplitASHA:
    """One ASHA per split, so that a trial with few labels never competes with a trial that has many.

    Args:
        config: the search.
        finished: the trials of earlier commands; they count as they did then.
    """

    def __init__(self, config: TuneConfig, finished: Iterable[Trial] = ()) -> None:
        self._off, self._epochs = config.search.scheduler == "none", config.train.epochs
        self._by_split: defaultdict[str, ASHAScheduler] = defaultdict(lambda: _asha(config))
        self._stopped: set[str] = set()
        for trial in finished:
            for epoch, miou in trial.runs[0].curve if trial.runs and trial.number else ():
                self.stops(trial, epoch, miou)

    def stops(self, trial: Trial, epoch: float, miou: float) -> bool:
        """Whether a trial stops after a validation; asked again, the answer is the same.

        The baseline, which the others are compared with, and a trial at its last epoch are never stopped.
        """
        if self._off:
            return False
        # ASHA identifies a trial by this name alone, and keeps the first score of each rung.
        asha, named = self._by_split[trial.split], SimpleNamespace(trial_id=trial.file)
        asha.on_trial_add(None, named)
        decision = asha.on_trial_result(None, named, {"epoch": epoch, "miou": miou})
        if decision == TrialScheduler.STOP and trial.number > 0 and epoch < self._epochs:
            self._stopped.add(trial.file)
        return trial.file in self._stopped


def _asha(config: TuneConfig) -> ASHAScheduler:
    search, epochs = config.search, config.train.epochs
    return ASHAScheduler(
        time_attr="epoch",
        metric="miou",
        mode="max",
        max_t=epochs,
        grace_period=min(epochs, search.grace or max(1, round(epochs / GRACE_PART))),
        reduction_factor=search.reduction,
        stop_last_trials=False,
    )
