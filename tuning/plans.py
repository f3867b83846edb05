"""Which trial is trained next: interrupted trials, then the splits in turn; at the end, finalists again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from segray.models.semi.methods import METHODS
from segray.pipelines.config.commands.tune import TuneConfig, dimensions_of, splits_of, train_config
from segray.pipelines.config.loading import identity
from segray.pipelines.config.search_space import THRESHOLD
from segray.pipelines.engine.provenance import stored_section
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.pseudo_labels import epsilon_of
from segray.tuning.folder import SearchFolder
from segray.tuning.records import Outcome, Trial, Values
from segray.tuning.space import Proposer, combinations, written_value

OnEnd = Callable[[Trial], None]
Rerun = Literal["finals", "held_out"]
_ON = {"finals": "on a further seed", "held_out": "on an unseen seed"}


@dataclass(frozen=True)
class Job:
    """A trial to train with some seeds.

    Attributes:
        may_stop: whether the scheduler may stop it, on its first seed.
    """

    trial: Trial
    seeds: list[int]
    may_stop: bool = False


class Plan(ABC):
    """What is trained next, and what became of it.

    Args:
        folder: the search, with the trials so far.
        on_end: called with every trial that has ended.
    """

    def __init__(self, folder: SearchFolder, on_end: OnEnd) -> None:
        self._folder, self._config, self._on_end = folder, folder.config, on_end
        self._jobs: Iterator[Job] = iter(())

    def next(self) -> Job | None:
        """The next job; None: there is none left."""
        return next(self._jobs, None)

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Record the outcome of a trial's job."""
        self._record(trial, outcome)
        self._folder.finish(trial)
        self._on_end(trial)

    @abstractmethod
    def _record(self, trial: Trial, outcome: Outcome) -> None:
        """Change the trial by the outcome."""


class SearchPlan(Plan):
    """The search itself; `classes` is their number, for the default smoothing."""

    def __init__(self, folder: SearchFolder, classes: int, on_end: OnEnd) -> None:
        super().__init__(folder, on_end)
        interrupted = [trial for trial in folder.trials() if not trial.finished]
        self._jobs = map(self._begun, chain(interrupted, self._new(baseline_values(self._config, classes))))

    @property
    def total(self) -> int:
        """The largest number of trials that the search can have."""
        per_split = self._config.search.trials
        if self._config.search.algorithm == "grid":
            per_split = min(per_split, 1 + sum(1 for _ in combinations(dimensions_of(self._config))))
        return per_split * len(splits_of(self._config))

    def _new(self, baseline: Values) -> Iterator[Trial]:
        """One of each split in turn, made when all before it are recorded."""
        names = self._folder.names()
        proposers = {split: proposer_of(self._config, split) for split in names}
        while proposers:
            for split, proposer in list(proposers.items()):
                trials = self._folder.trials(split)
                number, values = len(trials), None
                if number < self._config.search.trials:
                    values = proposer.propose(trials) if trials else baseline
                if values is None:
                    del proposers[split]
                else:
                    yield Trial(split, number, values, f"{names[split]}-{number:03}")

    def _begun(self, trial: Trial) -> Job:
        trial.state, trial.reason = "running", ""
        self._folder.save(trial)
        first = self._config.seed
        return Job(trial, list(range(first, first + self._config.search.seeds)), may_stop=trial.number > 0)

    def _record(self, trial: Trial, outcome: Outcome) -> None:
        trial.state, trial.reason, trial.runs = outcome.state, outcome.reason, outcome.runs


class RerunPlan(Plan):
    """Finished trials once more, with further seeds.

    Attributes:
        phase: `finals`: all finalists; `held_out`: each split's best and its baseline, on unseen seeds.
    """

    def __init__(self, phase: Rerun, folder: SearchFolder, on_end: OnEnd) -> None:
        super().__init__(folder, on_end)
        self.phase: Rerun = phase
        trials = [trial for split in splits_of(folder.config) for trial in self._chosen(split)]
        jobs = [Job(trial, seeds) for trial in trials if (seeds := self._missing_seeds(trial))]
        self._jobs, self._length = iter(jobs), len(jobs)

    def __len__(self) -> int:
        return self._length

    def _record(self, trial: Trial, outcome: Outcome) -> None:
        """A crashed rerun is tried again by the next command."""
        trial.reason = "" if outcome.state == "done" else f"{_ON[self.phase]}: {outcome.reason}"
        if outcome.state == "done":
            getattr(trial, self.phase).extend(outcome.runs)

    def _chosen(self, split: str) -> list[Trial]:
        finalists, best = self._folder.finalists(split), self._folder.best(split)
        if self.phase == "finals":
            return finalists if self._folder.config.search.finalists else []
        return [trial for trial in finalists if trial is best or trial.number == 0]

    def _missing_seeds(self, trial: Trial) -> list[int]:
        search = self._folder.config.search
        first, count = self._folder.config.seed + search.seeds, search.final_seeds
        if self.phase == "held_out":
            first, count = first + search.final_seeds, search.held_out
        known = {run.seed for run in getattr(trial, self.phase)}
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
        values["pseudo.epsilon"] = float(f"{epsilon_of(base.pseudo, classes):.4g}")
    if any(dimension.key == THRESHOLD for dimension in dimensions) and base.data.labels is not None:
        record, labels = LabelStore(base.data.labels).provenance, base.data.labels
        values[THRESHOLD] = stored_section(record, "config", ["label.threshold"], labels)["label.threshold"]
    return {dimension.key: written_value(values[dimension.key]) for dimension in dimensions}
