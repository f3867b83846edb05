"""Propose the values of the next trial: from a grid, at random, or by Optuna.

A proposal depends on the seed, the split and the split's trials so far, whose records are in the search's
folder. Each proposal therefore fills an Optuna study from these records and asks it: a search that was killed
continues as if it had not been, on any storage. Optuna's `JournalStorage` does not: with a last line that was
cut short by a crash, the next `ask` fails, and its file must be on a local disk.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from segray.pipelines.config.search_space import Dimension, text
from segray.pipelines.errors import UserError
from segray.tuning.records import Trial, Values

if TYPE_CHECKING:
    import optuna

STARTUP = 5
"""Trials of a split that are drawn at random before Optuna's model is used."""
_DIGITS = 4
"""Significant digits of a drawn number: further digits have no effect, and only fill tables and files."""
_ATTEMPTS = 200
_STATES = {"done": "COMPLETE", "diverged": "COMPLETE", "stopped": "PRUNED", "running": "RUNNING"}
"""What a trial is to Optuna. It is not told of crashed trials."""


@dataclass(frozen=True)
class Proposer:
    """Proposes values for one split.

    Args:
        algorithm: "optuna" is its tree-structured Parzen estimator (TPE).
        dimensions: the searched keys.
        seed: of the search.
        split: the value of `data.labelled`.

    Raises:
        UserError: a grid over a range, or Optuna is not installed.
    """

    algorithm: Literal["optuna", "random", "grid"]
    dimensions: Sequence[Dimension]
    seed: int
    split: str

    def __post_init__(self) -> None:
        if self.algorithm != "grid":
            _require_optuna()
        elif ranges := [dimension.key for dimension in self.dimensions if not dimension.listed]:
            raise UserError(
                f"search.algorithm=grid: space.{ranges[0]} is a range; use grid(A,B,...) or another algorithm"
            )

    def propose(self, trials: Sequence[Trial]) -> Values | None:
        """Values that no trial of the split has yet; None: there are none left.

        The same values with the same seeds would only give the same score again.

        Args:
            trials: of the split so far.
        """
        tried = [trial.values for trial in trials]
        candidates = combinations(self.dimensions) if self.algorithm == "grid" else self._draws(trials)
        return next((values for values in candidates if values not in tried), None)

    def _draws(self, trials: Sequence[Trial]) -> Iterator[Values]:
        """Optuna's best guess first. Then random draws, with the points of grid(...) in turn."""
        import optuna

        number = len(trials)
        if self.algorithm == "optuna":
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP, multivariate=True, constant_liar=True, seed=self._seed(number)
            )
            yield self._ask(sampler, trials, {})
        points = list(combinations([dimension for dimension in self.dimensions if dimension.kind == "grid"]))
        for attempt in range(_ATTEMPTS):
            random = optuna.samplers.RandomSampler(self._seed(number, attempt))
            yield self._ask(random, (), points[number % len(points)])

    def _ask(
        self, sampler: optuna.samplers.BaseSampler, trials: Sequence[Trial], fixed: Mapping[str, str]
    ) -> Values:
        import optuna

        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([known for trial in trials if (known := frozen_trial(self.dimensions, trial))])
        if fixed:
            study.enqueue_trial(dict(fixed))
        params = study.ask(_distributions(self.dimensions)).params
        return {dimension.key: _written(dimension, params[dimension.key]) for dimension in self.dimensions}

    def _seed(self, *numbers: int) -> int:
        """Different for each draw, the same on every machine."""
        return zlib.crc32("/".join(map(str, (self.seed, self.split, *numbers))).encode())


def frozen_trial(dimensions: Sequence[Dimension], trial: Trial) -> optuna.trial.FrozenTrial | None:
    """A trial for an Optuna study; None if it crashed, or its values are outside of the space.

    A trial whose loss diverged counts with the worst score.
    """
    import optuna

    params = {
        dimension.key: _read(dimension, trial.values.get(dimension.key, "")) for dimension in dimensions
    }
    if trial.state not in _STATES or None in params.values():
        return None
    scores = {"done": trial.score, "diverged": 0.0}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[_STATES[trial.state]],
        params=params,
        distributions=_distributions(dimensions),
        value=scores.get(trial.state),
        intermediate_values={round(epoch): miou for run in trial.runs[:1] for epoch, miou in run.curve},
    )


def combinations(dimensions: Sequence[Dimension]) -> Iterator[Values]:
    """Every combination of listed values, the last key changing fastest; one empty one of no dimension."""
    names = [dimension.key for dimension in dimensions]
    for values in itertools.product(*(dimension.values for dimension in dimensions)):
        yield dict(zip(names, values, strict=True))


def as_number(written: str) -> float | None:
    """The finite number that a value is, or None."""
    with suppress(ValueError):
        number = float(written)
        return number if math.isfinite(number) else None
    return None


def written_value(value: object) -> str:
    """A value of a configuration in the notation of the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(written_value, value))
    return text(value) if isinstance(value, int | float) else str(value)


def _require_optuna() -> None:
    """Import Optuna, and silence its log."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            'search.algorithm=optuna and random need Optuna: pip install "segray[tune]" '
            "(without it: search.algorithm=grid)"
        ) from None
    import warnings

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _distributions(dimensions: Sequence[Dimension]) -> dict[str, optuna.distributions.BaseDistribution]:
    return {dimension.key: _distribution(dimension) for dimension in dimensions}


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    import optuna

    if dimension.listed:
        return optuna.distributions.CategoricalDistribution(dimension.values)
    log = dimension.kind == "loguniform"
    if dimension.whole:
        return optuna.distributions.IntDistribution(int(dimension.low), int(dimension.high), log=log)
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=log)


def _written(dimension: Dimension, value: str | float) -> str:
    if isinstance(value, str) or dimension.whole:
        return str(value)
    return text(min(max(float(f"{value:.{_DIGITS}g}"), dimension.low), dimension.high))


def _read(dimension: Dimension, written: str) -> str | float | None:
    """A value as Optuna has it; None where it is outside of the space."""
    if dimension.listed:
        return written if written in dimension.values else None
    value = as_number(written)
    if value is None or not dimension.low <= value <= dimension.high:
        return None
    return int(value) if dimension.whole else value
