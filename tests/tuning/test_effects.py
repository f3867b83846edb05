"""The effect of each key."""

from __future__ import annotations

import numpy as np
import pytest

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.search_space import Dimension, parse_dimension
from segray.tuning.report.effects import comparable, importance, position, smooth_map
from tests.tuning.searches import trial

TAU = parse_dimension(TrainConfig, "pseudo.tau", "uniform(0.4,1)")
EPSILON = parse_dimension(TrainConfig, "pseudo.epsilon", "uniform(0,0.3)")
LR = parse_dimension(TrainConfig, "train.lr", "loguniform(1e-4,1e-2)")
METHOD = Dimension("method", "choice", values=("segray", "fixmatch"))


def test_the_key_that_decides_is_the_important_one() -> None:
    taus = np.random.default_rng(0).uniform(0.4, 1, 20)
    trials = [trial(n, 0.6 - (tau - 0.7) ** 2, tau=float(tau)) for n, tau in enumerate(taus)]
    scores = comparable(trials).scores
    assert importance(TAU, trials, scores) == pytest.approx(1, abs=1e-6)
    assert (importance(EPSILON, trials, scores) or 0) < 0.4


def test_listed_values_matter_by_their_means() -> None:
    trials = [trial(n, 0.5 + 0.1 * (n % 2)) for n in range(8)]
    for one in trials:
        one.values["method"] = METHOD.values[one.number % 2]
    assert importance(METHOD, trials, comparable(trials).scores) == pytest.approx(1)


def test_few_trials_or_equal_ones_say_nothing() -> None:
    few = [trial(n, 0.1 * n, tau=0.5 + 0.1 * n) for n in range(4)]
    assert importance(TAU, few, comparable(few).scores) is None
    equal = [trial(n, 0.5, tau=0.4 + 0.05 * n) for n in range(10)]
    assert importance(TAU, equal, comparable(equal).scores) is None


def test_stopped_trials_are_compared_where_all_have_been() -> None:
    done, stopped, crashed = trial(1, 0.9), trial(2, 0.2, "stopped"), trial(3, None, "crashed")
    assert comparable([done]).epoch is None
    assert comparable([done]).scores == {"2-001": 0.9}
    both = comparable([done, stopped, crashed])
    assert both.epoch == 3
    assert both.scores == {"2-001": pytest.approx(0.3), "2-002": pytest.approx(0.2)}


def test_a_trial_that_was_first_validated_later_is_not_compared() -> None:
    late = trial(1, 0.9)
    late.runs[0].curve[:] = [(9.0, 0.9)]
    assert comparable([late, trial(2, 0.2, "stopped")]).scores == {"2-002": pytest.approx(0.2)}


def test_positions_are_shares_of_the_range() -> None:
    one = trial(1, 0.5, tau=0.7)
    one.values |= {"train.lr": "0.001", "method": "fixmatch"}
    assert position(TAU, one) == pytest.approx(0.5)
    assert position(LR, one) == pytest.approx(0.5)
    assert position(METHOD, one) == 0.75
    one.values |= {"train.lr": "0", "method": "unimatch"}
    assert (position(LR, one), position(METHOD, one)) == (None, None)


def test_map_is_a_mean_that_follows_the_nearest_trials() -> None:
    cells = smooth_map([(0.1, 0.1), (0.9, 0.9)], [0.2, 0.8], 10, 10, reach=0.05)
    assert cells.shape == (10, 10)
    assert cells[1, 1] == pytest.approx(0.2, abs=1e-3)
    assert cells[8, 8] == pytest.approx(0.8, abs=1e-3)
    assert cells.min() >= 0.2
    assert cells.max() <= 0.8
