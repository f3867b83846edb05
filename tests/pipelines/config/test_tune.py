"""What `segray tune` may be asked to search, as one writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import DEFAULT_SPACE, TuneConfig, train_config
from segray.pipelines.config.loading import dump, identity, load, with_values
from segray.pipelines.config.search_space import SPLIT, parse_dimension
from segray.pipelines.errors import UserError


def tune(*words: str) -> TuneConfig:
    return load(TuneConfig, None, ["out=x", "data.root=y", *words])


def test_tau_epsilon_and_the_split_are_searched_by_default() -> None:
    assert tune().space == DEFAULT_SPACE
    assert set(DEFAULT_SPACE) == {"pseudo.tau", "pseudo.epsilon", "data.labelled"}


def test_a_split_that_is_given_is_the_only_one() -> None:
    assert SPLIT not in tune("data.labelled=8").space
    assert tune("data.labelled=8", "space.data.labelled=grid(4,8)").space[SPLIT] == "grid(4,8)"


def test_what_the_method_does_not_use_is_not_searched() -> None:
    assert set(tune("method=fixmatch").space) == {"pseudo.tau", SPLIT}
    assert set(tune("method=supervised").space) == {SPLIT}


def test_any_key_is_added_and_null_takes_one_out() -> None:
    space = tune("space.train.lr=loguniform(1e-4,1e-2)", "space.pseudo.tau=null").space
    assert (space["train.lr"], space["pseudo.tau"]) == ("loguniform(1e-4,1e-2)", None)


def test_a_file_may_nest_the_keys_and_is_read_back_the_same(tmp_path: Path) -> None:
    file = tmp_path / "tune.yaml"
    file.write_text(
        "out: a\ndata: {root: x}\nspace:\n  train: {lr: 'loguniform(1e-4, 1e-2)'}\n  pseudo.tau:\n"
    )
    config = load(TuneConfig, str(file))
    assert config.space["train.lr"] == "loguniform(1e-4,1e-2)"
    file.write_text(dump(config))
    assert load(TuneConfig, str(file)) == config
    assert train_config(config) == load(TrainConfig, None, ["out=a", "data.root=x"])


def test_how_many_trials_may_change_between_runs_and_the_space_may_not() -> None:
    assert identity(tune("search.trials=3")) == identity(tune("search.trials=9", "search.held_out=0"))
    assert identity(tune()) != identity(tune("space.pseudo.tau=uniform(0.5,1)"))


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("space.train.lrr=choice(1)", "space: unknown key train.lrr; did you mean train.lr?"),
        ("space.method=choice(segray,segray_v3)", "space: method: segray_v3 sets other keys too"),
        ("space.train.lr=around(1)", "space: train.lr: 'around(1)' is not a valid search space (allowed"),
        ("space.train.lr=uniform(0,1)", "space: train.lr: 0 is out of range (allowed: above 0)"),
        ("space.train.lr=uniform(2,1)", "space: train.lr: uniform(2,1) needs LOW below HIGH"),
        ("space.train.lr=uniform(a,1)", "space: train.lr: uniform(a,1) needs two numbers: uniform(LOW,HIGH)"),
        ("space.pseudo.tau=loguniform(0,1)", "space: pseudo.tau: loguniform(0,1) needs LOW above 0"),
        (
            "space.pseudo.epsilon=uniform(0,2)",
            "space: pseudo.epsilon: 2 is out of range (allowed: at least 0",
        ),
        ("space.method=choice(segray,x)", "space: method: must be one of supervised, fixmatch"),
        ("space.method=uniform(0,1)", "space: method: uniform(0,1) is for numbers"),
        (
            "space.train.workers=grid(1,2)",
            "space: train.workers cannot be searched: it only changes where or how fast",
        ),
        ("train.workers=1..2", "train: workers (1..2) is a range (allowed: one number for all trials)"),
        ("space.seed=choice(1,2)", "space: seed cannot be searched: use search.seeds"),
        ("space.label.threshold=choice(0.1)", "space: label.threshold: there is no label set to relabel"),
        (
            "space.data.labelled=choice(8,8)",
            "space: data.labelled: choice(8,8) has an empty value, or lists a value twice",
        ),
        ("space.train.batch=choice(3)", "space: train: batch (3) is not a multiple"),
        ("search.trails=3", "unknown key search.trails; did you mean search.trials?"),
    ],
)
def test_what_cannot_be_searched_is_reported_in_one_line(word: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        tune(word, *(["train.accumulate=2", "train.batch=2"] if "batch" in word else []))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(told)


def test_methods_are_not_searched_with_the_keys_of_one_of_them() -> None:
    with pytest.raises(UserError, match=r"segray_v3 sets other keys too; give it a search of its own$"):
        tune("method=segray_v3", "space.method=choice(segray,fixmatch)")


def test_a_threshold_has_listed_values_in_range() -> None:
    assert tune("data.labels=z", "space.label.threshold=choice(0.1,0.2)").space["label.threshold"]
    for bad in ("uniform(0,1)", "choice(0.1,2)", "choice(a)"):
        with pytest.raises(UserError, match=r"label\.threshold"):
            tune("data.labels=z", f"space.label.threshold={bad}")


def test_whole_numbers_stay_whole() -> None:
    assert parse_dimension(TrainConfig, "train.epochs", "uniform(2,9)").whole
    assert not parse_dimension(TrainConfig, "train.lr", "uniform(2,9)").whole


def test_other_values_are_read_like_overrides() -> None:
    base = load(TrainConfig, None, ["out=x", "data.root=y", "pseudo.tau=0.9"])
    changed = with_values(base, {"pseudo.tau": "null", "augment.scale": "0.5,1", "data.labelled": "1/8"})
    assert (changed.pseudo.tau, changed.augment.scale, changed.data.labelled) == (None, (0.5, 1.0), "1/8")
    with pytest.raises(UserError, match="did you mean"):
        with_values(base, {"pseudo.ta": "1"})
