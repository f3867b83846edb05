"""Where the values of the next trial come from."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.search_space import Dimension, parse_dimension
from segray.pipelines.errors import UserError
from segray.tuning.records import State, Trial, Values
from segray.tuning.space import Proposer, written_value
from tests.tuning.searches import run

TAU = parse_dimension(TrainConfig, "pseudo.tau", "uniform(0.4,1)")
LR = parse_dimension(TrainConfig, "train.lr", "loguniform(1e-5,1e-2)")
EPOCHS = parse_dimension(TrainConfig, "train.epochs", "uniform(2,4)")
METHOD = parse_dimension(TrainConfig, "method", "choice(segray,fixmatch)")
Algorithm = Literal["optuna", "random", "grid"]
BATCH = parse_dimension(TrainConfig, "train.batch", "grid(2,4,8)")


def proposed(
    algorithm: Algorithm, dimensions: Sequence[Dimension], count: int, split: str = "8", seed: int = 0
) -> list[Values]:
    """The values of the first trials, each with the score that its tau is near 0.7."""
    proposer, past = Proposer(algorithm, dimensions, seed, split), list[Trial]()
    for number in range(count):
        values = proposer.propose(past)
        if values is None:
            break
        score = 1 - abs(float(values.get("pseudo.tau", "0.7")) - 0.7)
        past.append(Trial(split, number, values, f"{split}-{number:03}", "done", [run(score, epochs=1)]))
    return [one.values for one in past]


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_values_are_within_their_ranges_and_differ(algorithm: Algorithm) -> None:
    values = proposed(algorithm, [TAU, LR, EPOCHS, METHOD], 30)
    assert all(0.4 <= float(one["pseudo.tau"]) <= 1 for one in values)
    assert all(1e-5 <= float(one["train.lr"]) <= 1e-2 for one in values)
    assert {one["train.epochs"] for one in values} == {"2", "3", "4"}
    assert {one["method"] for one in values} == {"segray", "fixmatch"}
    assert len({one["pseudo.tau"] for one in values}) > 20


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_what_is_proposed_depends_on_seed_split_and_past_alone(algorithm: Algorithm) -> None:
    dimensions = [TAU, LR]
    assert proposed(algorithm, dimensions, 9) == proposed(algorithm, dimensions, 9)
    assert proposed(algorithm, dimensions, 3) != proposed(algorithm, dimensions, 3, split="16")
    assert proposed(algorithm, dimensions, 3) != proposed(algorithm, dimensions, 3, seed=1)


def test_loguniform_is_even_in_the_logarithm() -> None:
    small = sum(float(one["train.lr"]) < 10**-3.5 for one in proposed("random", [LR], 200))
    assert 70 < small < 130


def test_random_takes_the_points_of_a_grid_in_turn() -> None:
    values = proposed("random", [TAU, BATCH], 6)
    assert [one["train.batch"] for one in values] == ["2", "4", "8"] * 2
    assert len({one["pseudo.tau"] for one in values}) == 6


def test_grid_is_every_combination_once() -> None:
    values = proposed("grid", [METHOD, BATCH], 99)
    assert [(one["method"], one["train.batch"]) for one in values] == [
        (method, batch) for method in ("segray", "fixmatch") for batch in ("2", "4", "8")
    ]
    with pytest.raises(UserError, match=r"space\.pseudo\.tau is a range"):
        Proposer("grid", [TAU], 0, "8")


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_no_values_are_tried_twice(algorithm: Algorithm) -> None:
    assert sorted(one["method"] for one in proposed(algorithm, [METHOD], 9)) == ["fixmatch", "segray"]


def test_optuna_learns_from_the_past() -> None:
    late = [float(one["pseudo.tau"]) for one in proposed("optuna", [TAU], 40)[20:]]
    at_random = [float(one["pseudo.tau"]) for one in proposed("random", [TAU], 40)[20:]]
    miss = [sum(abs(tau - 0.7) for tau in taus) / len(taus) for taus in (late, at_random)]
    assert miss[0] < 0.6 * miss[1]


def test_optuna_takes_every_kind_of_past() -> None:
    proposer = Proposer("optuna", [TAU, METHOD], 0, "8")
    values = {"pseudo.tau": "0.5", "method": "segray"}
    states: tuple[State, ...] = ("done", "stopped", "crashed", "diverged", "running")
    past = [Trial("8", n, values, f"8-{n}", state, [run(0.5)]) for n, state in enumerate(states)]
    outside = Trial("8", 9, {"pseudo.tau": "1.1", "method": "unimatch"}, "8-9", "done", [run(0.9)])
    proposal = proposer.propose([*past, outside])
    assert proposal is not None
    assert set(proposal) == {"pseudo.tau", "method"}


def test_without_optuna_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'pip install "segray\[tune\]".*search\.algorithm=grid'):
        Proposer("optuna", [TAU], 0, "8")
    assert Proposer("grid", [METHOD], 0, "8").propose([])


def test_values_of_the_configuration_use_the_notation_of_the_command_line() -> None:
    configured = {"a": None, "b": True, "c": (0.5, 2.0), "d": 0.1, "e": 8, "f": "segray"}
    assert [written_value(value) for value in configured.values()] == [
        "null",
        "true",
        "0.5,2",
        "0.1",
        "8",
        "segray",
    ]
