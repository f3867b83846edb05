"""Where the values of the next trial come from: at random, from a grid, or from Optuna.

What is proposed depends on the seed, the split, the trial's number and the trials so far, and on nothing that
a process would have to remember: a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from segray.pipelines.config.search_space import Dimension, text
from segray.pipelines.errors import UserError

if TYPE_CHECKING:
    import optuna

Values = dict[str, str]
"""Values by key, as one writes them."""

STARTUP = 5
"""Trials of a split that Optuna draws at random before it trusts what it has learnt."""
_DIGITS = 4
_ATTEMPTS = 200


@dataclass(frozen=True)
class Past:
    """A trial so far, as a proposer sees it.

    Attributes:
        score: mIoU; None where there is none.
        curve: (epoch, mIoU) of its first run.
        state: "done", "stopped", "failed" or "running".
    """

    values: Values
    score: float | None
    curve: Sequence[tuple[float, float]]
    state: str


class Proposer(Protocol):
    """Names the values of a trial."""

    def propose(self, number: int, past: Sequence[Past]) -> Values | None:
        """Values of the trial with this number, from 0, of its split; None: there is no such trial."""
        ...


def make_proposer(algorithm: str, dimensions: Sequence[Dimension], seed: int, split: str) -> Proposer:
    """The proposer of one split.

    Raises:
        UserError: a grid over a range, or Optuna is not installed.
    """
    if algorithm == "grid":
        return GridProposer(dimensions)
    if algorithm == "random":
        return RandomProposer(dimensions, seed, split)
    return OptunaProposer(dimensions, seed, split)


class GridProposer:
    """Every combination, the last key changing fastest."""

    def __init__(self, dimensions: Sequence[Dimension]) -> None:
        for one in dimensions:
            if not one.listed:
                raise UserError(
                    f"search.algorithm=grid: space.{one.key} is a range; give grid(A,B,...), "
                    "or another algorithm"
                )
        self._dimensions = dimensions

    def propose(self, number: int, past: Sequence[Past]) -> Values | None:  # noqa: ARG002  tried or not
        """The first combination that was not tried."""
        tried = [one.values for one in past]
        return next((values for values in combinations(self._dimensions) if values not in tried), None)


class RandomProposer:
    """Independent draws; the combinations of grid(...) are taken in turn, each as often as the others."""

    def __init__(self, dimensions: Sequence[Dimension], seed: int, split: str) -> None:
        self._drawn = [one for one in dimensions if one.kind != "grid"]
        self._points = list(combinations([one for one in dimensions if one.kind == "grid"]))
        self._seed, self._split = seed, split

    def propose(self, number: int, past: Sequence[Past]) -> Values | None:
        """The draw with this number; another, where that one was tried; None where all seem to have been."""
        tried = [one.values for one in past]
        fixed = self._points[number % len(self._points)]
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([number_seed(self._seed, self._split, number), attempt])
            values = {**fixed, **{one.key: draw(one, rng) for one in self._drawn}}
            if values not in tried:
                return values
        return None


class OptunaProposer:
    """Optuna's tree-structured Parzen estimator, over what the split's trials have shown.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(self, dimensions: Sequence[Dimension], seed: int, split: str) -> None:
        require_optuna()
        self._dimensions, self._seed, self._split = dimensions, seed, split
        self._space = {one.key: _distribution(one) for one in dimensions}
        self._other = RandomProposer(dimensions, seed, split)

    def propose(self, number: int, past: Sequence[Past]) -> Values | None:
        """What is likeliest to do better than the best of the past."""
        import optuna

        sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP,
            multivariate=True,
            constant_liar=True,
            seed=number_seed(self._seed, self._split, number),
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for one in past:
            if (trial := self._trial(one)) is not None:
                study.add_trial(trial)
        asked = study.ask(self._space).params
        values = {one.key: _written(one, asked[one.key]) for one in self._dimensions}
        # The same values with the same seeds would give the same score.
        tried = values in [one.values for one in past]
        return self._other.propose(number, past) if tried else values

    def _trial(self, past: Past) -> optuna.trial.FrozenTrial | None:
        """A trial as Optuna keeps it; None where its values are outside of the space."""
        import optuna

        states = {
            "done": optuna.trial.TrialState.COMPLETE,
            "stopped": optuna.trial.TrialState.PRUNED,
            "running": optuna.trial.TrialState.RUNNING,
        }
        params = {one.key: _read(one, past.values.get(one.key, "")) for one in self._dimensions}
        if past.state not in states or any(value is None for value in params.values()):
            return None
        return optuna.trial.create_trial(
            state=states[past.state],
            params=params,
            distributions=self._space,
            value=past.score if past.state == "done" else None,
            intermediate_values={round(epoch): miou for epoch, miou in past.curve},
        )


def require_optuna() -> None:
    """Import it, without its own lines.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            'search.algorithm=optuna needs Optuna: pip install "segray[tune]" '
            "(without: search.algorithm=random or grid)"
        ) from None
    import warnings

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def combinations(dimensions: Sequence[Dimension]) -> Iterator[Values]:
    """Every combination of listed values, the last key changing fastest; one empty one of no dimension."""
    names = [one.key for one in dimensions]
    for values in itertools.product(*(one.values for one in dimensions)):
        yield dict(zip(names, values, strict=True))


def number_seed(seed: int, split: str, number: int) -> int:
    """A seed of its own for each trial, the same on every machine."""
    return zlib.crc32(f"{seed}/{split}/{number}".encode())


def draw(dimension: Dimension, rng: np.random.Generator) -> str:
    """One value of a range or a list."""
    if dimension.listed:
        return dimension.values[int(rng.integers(len(dimension.values)))]
    low, high = dimension.low, dimension.high
    if dimension.kind == "loguniform":
        return _number(dimension, math.exp(rng.uniform(math.log(low), math.log(high))))
    if dimension.whole:
        return text(int(rng.integers(int(low), int(high) + 1)))
    return _number(dimension, float(rng.uniform(low, high)))


def _number(dimension: Dimension, value: float) -> str:
    """Four digits do: more would pretend to matter, in the table and in the file."""
    rounded = round(value) if dimension.whole else float(f"{value:.{_DIGITS}g}")
    return text(min(max(rounded, dimension.low), dimension.high))


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    import optuna

    if dimension.listed:
        return optuna.distributions.CategoricalDistribution(dimension.values)
    log = dimension.kind == "loguniform"
    if dimension.whole:
        return optuna.distributions.IntDistribution(int(dimension.low), int(dimension.high), log=log)
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=log)


def _written(dimension: Dimension, value: Any) -> str:
    return value if dimension.listed else _number(dimension, float(value))


def _read(dimension: Dimension, written: str) -> str | float | int | None:
    """A value as Optuna has it; None where it is none of the space."""
    if dimension.listed:
        return written if written in dimension.values else None
    value = as_number(written)
    if value is None or not dimension.low <= value <= dimension.high:
        return None
    return int(value) if dimension.whole else value


def as_number(written: str) -> float | None:
    """The number that a value is, or None."""
    try:
        return float(written)
    except ValueError:
        return None


def default_values(dimensions: Sequence[Dimension], standing: Mapping[str, Any]) -> Values:
    """The values of trial 0: those that the configuration has, as one writes them."""
    return {one.key: _plain(standing[one.key]) for one in dimensions}


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(_plain, value))
    return text(value) if isinstance(value, int | float) else str(value)
