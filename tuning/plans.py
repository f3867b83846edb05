"""Which trial is trained next: interrupted trials, then the splits in turn; at the end, finalists again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from segray.models.semi.methods import METHODS
from segray.models.semi.objective import default_epsilon
from segray.pipelines.config.commands.tune import TuneConfig, dimensions_of, splits_of, train_config
from segray.pipelines.config.loading import identity
from segray.pipelines.config.search_space import THRESHOLD
from segray.pipelines.engine.provenance import stored_section
from segray.pipelines.label_set.store import LabelStore
from segray.tuning.folder import SearchFolder, split_names
from segray.tuning.records import Outcome, Trial, Values
from segray.tuning.space import Proposer, combinations, written_value

OnEnd = Callable[[Trial], None]
Rerun = Literal["finals", "held_out"]
_ON = {"finals": "on a further seed", "held_out": "on an unseen seed"}


@dataclass(frozen=True)
class Job:
    """A trial to train with some seeds.

    Attributes:
        may_stop: whether the scheduler judges it, on its first seed.
    """

    trial: Trial
    seeds: list[int]
    may_stop: bool = False


class Plan(Protocol):
    """What is trained next, and what became of it."""

    def next(self) -> Job | None:
        """The next job; None: there is none left."""
        ...

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Record the outcome of a trial's job."""
        ...


class SearchPlan:
    """The search itself.

    Args:
        folder: the search, with the trials so far.
        classes: number of classes, for the default smoothing.
        on_end: called with every trial that has ended.

    Raises:
        UserError: see `Proposer`.
    """

    def __init__(self, folder: SearchFolder, classes: int, on_end: OnEnd) -> None:
        self._folder, self._config, self._on_end = folder, folder.config, on_end
        self._names = split_names(splits_of(self._config))
        self._baseline = baseline_values(self._config, classes)
        self._proposers = {split: proposer_of(self._config, split) for split in self._names}
        unfinished = [trial for trial in folder.trials() if not trial.finished]
        self._waiting = [trial for trial in unfinished if trial.split in self._names]
        self._turns = list(self._names)

    @property
    def total(self) -> int:
        """The largest number of trials that the search can have."""
        per_split = self._config.search.trials
        if self._config.search.algorithm == "grid":
            per_split = min(per_split, 1 + sum(1 for _ in combinations(dimensions_of(self._config))))
        return per_split * len(self._names)

    def next(self) -> Job | None:
        """The next trial, recorded as running; None: there is none left."""
        trial = self._waiting.pop(0) if self._waiting else self._new()
        if trial is None:
            return None
        trial.state, trial.reason = "running", ""
        self._folder.save(trial)
        first = self._config.seed
        seeds = list(range(first, first + self._config.search.seeds))
        return Job(trial, seeds, may_stop=trial.number > 0)

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Record the outcome of a trial."""
        trial.state, trial.reason, trial.runs = outcome.state, outcome.reason, outcome.runs
        _keep(self._folder, trial)
        self._on_end(trial)

    def _new(self) -> Trial | None:
        while self._turns:
            split = self._turns.pop(0)
            trials = self._folder.trials(split)
            values = self._values(split, trials) if len(trials) < self._config.search.trials else None
            if values is not None:
                self._turns.append(split)
                return Trial(split, len(trials), values, f"{self._names[split]}-{len(trials):03}")
        return None

    def _values(self, split: str, trials: list[Trial]) -> Values | None:
        return self._proposers[split].propose(trials) if trials else self._baseline


class RerunPlan:
    """Finished trials once more, with further seeds.

    Args:
        phase: `finals`: all finalists; `held_out`: each split's best and its baseline, on unseen seeds.
        folder: the search, with the trials so far.
        on_end: called with every trial that was trained again.
    """

    def __init__(self, phase: Rerun, folder: SearchFolder, on_end: OnEnd) -> None:
        self._phase, self._folder, self._on_end = phase, folder, on_end
        trials = [trial for split in splits_of(folder.config) for trial in self._chosen(split)]
        jobs = [Job(trial, self._missing_seeds(trial)) for trial in trials]
        self._jobs = [job for job in jobs if job.seeds]

    def __len__(self) -> int:
        return len(self._jobs)

    def next(self) -> Job | None:
        """The next trial to train again; None: there is none left."""
        return self._jobs.pop(0) if self._jobs else None

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Record the runs; a crashed rerun is tried again by the next command."""
        if outcome.state == "done":
            getattr(trial, self._phase).extend(outcome.runs)
            trial.reason = ""
        else:
            trial.reason = f"{_ON[self._phase]}: {outcome.reason}"
        _keep(self._folder, trial)
        self._on_end(trial)

    def _chosen(self, split: str) -> list[Trial]:
        finalists, best = self._folder.finalists(split), self._folder.best(split)
        if self._phase == "finals":
            return finalists if self._folder.config.search.finalists else []
        return [trial for trial in finalists if trial is best or trial.number == 0]

    def _missing_seeds(self, trial: Trial) -> list[int]:
        search = self._folder.config.search
        first, count = self._folder.config.seed + search.seeds, search.final_seeds
        if self._phase == "held_out":
            first, count = first + search.final_seeds, search.held_out
        known = {run.seed for run in getattr(trial, self._phase)}
        return [seed for seed in range(first, first + count) if seed not in known]


def proposer_of(config: TuneConfig, split: str) -> Proposer:
    """What proposes the values of a split's trials.

    Raises:
        UserError: see `Proposer`.
    """
    return Proposer(config.search.algorithm, dimensions_of(config), config.seed, split)


def baseline_values(config: TuneConfig, classes: int) -> Values:
    """The searched keys' values in the configuration; null tau and epsilon as the numbers they mean."""
    base, dimensions = train_config(config), dimensions_of(config)
    values = identity(base)
    if base.pseudo.tau is None:
        values["pseudo.tau"] = METHODS[base.method].default_tau
    if base.pseudo.epsilon is None:
        values["pseudo.epsilon"] = float(f"{default_epsilon(classes):.4g}")
    if any(dimension.key == THRESHOLD for dimension in dimensions) and base.data.labels is not None:
        record, labels = LabelStore(base.data.labels).provenance, base.data.labels
        values[THRESHOLD] = stored_section(record, "config", ["label.threshold"], labels)["label.threshold"]
    return {dimension.key: written_value(values[dimension.key]) for dimension in dimensions}


def _keep(folder: SearchFolder, trial: Trial) -> None:
    folder.save(trial)
    if not folder.config.search.keep_weights:
        folder.drop_weights(trial.split)
