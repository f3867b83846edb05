"""Which trial comes next: those that were interrupted, then the splits in turn; at last further seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from segray.models.semi.methods import METHODS
from segray.models.semi.objective import default_epsilon
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import TuneConfig, train_config
from segray.pipelines.config.loading import identity
from segray.pipelines.config.search_space import SPLIT, THRESHOLD, Dimension, parse_space
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import LabelStore
from segray.tuning.ledger import Ledger, Run, State, Trial, split_names
from segray.tuning.space import Values, combinations, default_values, make_proposer

Given = dict[str, Any]
Describe = Callable[[Trial, list[int], bool], Given]
"""What the driver of a trial is given, for these seeds; whether it may be stopped."""
Tell = Callable[[Trial], None]
Again = Literal["finals", "held_out"]
_ON = {"finals": "on a further seed", "held_out": "on an unseen seed"}


def splits_of(config: TuneConfig) -> list[str]:
    """The values of `data.labelled`: each is a family of its own."""
    found = [one for one in parse_space(TrainConfig, config.space) if one.key == SPLIT]
    return list(found[0].values) if found else [config.data.labelled]


def dimensions_of(config: TuneConfig) -> list[Dimension]:
    """What is searched within a split."""
    return [one for one in parse_space(TrainConfig, config.space) if one.key != SPLIT]


class SearchPlan:
    """The search itself.

    Args:
        config: what is searched, and how.
        ledger: what is known so far.
        classes: how many there are, for the default smoothing.
        describe: makes what a driver is given.
        tell: called with every trial that has ended.

    Raises:
        UserError: see `make_proposer`.
    """

    def __init__(
        self, config: TuneConfig, ledger: Ledger, classes: int, describe: Describe, tell: Tell
    ) -> None:
        self._config, self._ledger, self._describe, self._tell = config, ledger, describe, tell
        self._dimensions = dimensions_of(config)
        self._names = split_names(splits_of(config))
        self._default = standing_values(config, self._dimensions, classes)
        search = config.search
        self._proposers = {
            split: make_proposer(search.algorithm, self._dimensions, config.seed, split)
            for split in self._names
        }
        unfinished = [one for one in ledger.trials() if not one.finished]
        self._waiting = [one for one in unfinished if one.split in self._names]
        self._turn = list(self._names)

    @property
    def total(self) -> int:
        """Trials that there will be at most."""
        if self._config.search.algorithm != "grid":
            return self._config.search.trials * len(self._names)
        points = sum(1 for _ in combinations(self._dimensions))
        return min(self._config.search.trials, points + 1) * len(self._names)

    def next(self) -> tuple[Trial, Given] | None:
        """The next trial, noted as running; None: there is none left."""
        first = self._config.seed
        seeds = list(range(first, first + self._config.search.seeds))
        while (trial := self._waiting.pop(0) if self._waiting else self._new()) is not None:
            trial.state, trial.reason = "running", ""
            self._ledger.save(trial)
            try:
                return trial, self._describe(trial, seeds, trial.number > 0)
            except UserError as error:
                # A value that does not go with the data, such as a split file that is missing.
                self.ended(trial, {"state": "crashed", "reason": one_line(error), "runs": []})
        return None

    def ended(self, trial: Trial, outcome: Mapping[str, Any]) -> None:
        """Keep the outcome of a trial."""
        state: State = outcome["state"]
        trial.state, trial.reason = state, outcome["reason"]
        trial.runs = [Run(**run) for run in outcome["runs"]]
        self._ledger.save(trial)
        if not self._config.search.keep_weights:
            self._ledger.drop_weights(trial.split)
        self._tell(trial)

    def _new(self) -> Trial | None:
        while self._turn:
            split = self._turn.pop(0)
            past = self._ledger.trials(split)
            number = len(past)
            values = self._values(split, number, past) if number < self._config.search.trials else None
            if values is not None:
                self._turn.append(split)
                return Trial(split, number, values, f"{self._names[split]}-{number:03}")
        return None

    def _values(self, split: str, number: int, past: list[Trial]) -> Values | None:
        if number == 0:
            return self._default
        return self._proposers[split].propose(number, [one.past() for one in past])


class RerunPlan:
    """Finished trials once more, with further seeds.

    Args:
        again: `finals` or `held_out`: what comes of it and where it is kept.
        ledger: what is known so far.
        describe: makes what a driver is given.
        tell: called with every trial that was trained again.
    """

    def __init__(self, again: Again, ledger: Ledger, describe: Describe, tell: Tell) -> None:
        self._again, self._ledger, self._describe, self._tell = again, ledger, describe, tell
        config = ledger.config
        self._left = [job for split in splits_of(config) for job in self._jobs(split, _seeds(config, again))]

    def _jobs(self, split: str, seeds: list[int]) -> list[tuple[Trial, list[int]]]:
        jobs = []
        for trial in self._chosen(split):
            known = {run.seed for run in getattr(trial, self._again)}
            jobs.append((trial, [seed for seed in seeds if seed not in known]))
        return [(trial, missing) for trial, missing in jobs if missing]

    def _chosen(self, split: str) -> list[Trial]:
        """All finalists, or the best and the configuration as it stands."""
        finalists, best = self._ledger.finalists(split), self._ledger.best(split)
        if self._again == "finals":
            return finalists if self._ledger.config.search.finalists else []
        return [one for one in finalists if one is best or one.number == 0]

    def __len__(self) -> int:
        return len(self._left)

    def next(self) -> tuple[Trial, Given] | None:
        """The next trial to train again; None: there is none left."""
        if not self._left:
            return None
        trial, seeds = self._left.pop(0)
        return trial, self._describe(trial, seeds, False)

    def ended(self, trial: Trial, outcome: Mapping[str, Any]) -> None:
        """Keep the runs; what crashed is tried again by the next command."""
        if outcome["state"] == "done":
            getattr(trial, self._again).extend(Run(**run) for run in outcome["runs"])
            trial.reason = ""
        else:
            trial.reason = f"{_ON[self._again]}: {outcome['reason']}"
        self._ledger.save(trial)
        if not self._ledger.config.search.keep_weights:
            self._ledger.drop_weights(trial.split)
        self._tell(trial)


def _seeds(config: TuneConfig, again: Again) -> list[int]:
    search = config.search
    first = config.seed + search.seeds
    if again == "finals":
        return list(range(first, first + search.final_seeds))
    return list(range(first + search.final_seeds, first + search.final_seeds + search.held_out))


def one_line(error: Exception) -> str:
    """What an error says, fit for a table."""
    return " ".join(str(error).split())[:200]


def standing_values(config: TuneConfig, dimensions: list[Dimension], classes: int) -> Values:
    """The values that the configuration has, a null of tau and epsilon as what it stands for."""
    base = train_config(config)
    standing = identity(base)
    method = METHODS[base.method]
    if base.pseudo.tau is None:
        standing["pseudo.tau"] = method.default_tau
    if base.pseudo.epsilon is None:
        standing["pseudo.epsilon"] = float(f"{default_epsilon(classes):.4g}")
    if any(one.key == THRESHOLD for one in dimensions) and base.data.labels is not None:
        standing[THRESHOLD] = LabelStore(base.data.labels).provenance["config"]["label.threshold"]
    return default_values(dimensions, standing)
