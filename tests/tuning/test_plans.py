"""Which trial comes next."""

from __future__ import annotations

from pathlib import Path

import pytest

from segray.tuning.folder import SearchFolder
from segray.tuning.plans import Job, RerunPlan, SearchPlan
from segray.tuning.records import Outcome, State, Trial
from tests.tuning.searches import config, run, search_folder, trial


def plan(kept: SearchFolder) -> SearchPlan:
    return SearchPlan(kept, 10, lambda _: None)


def ends(
    made: SearchPlan | RerunPlan, one: Trial, state: State, miou: float | None = None, seed: int = 0
) -> None:
    runs = [] if miou is None else [run(miou, seed=seed)]
    made.end(one, Outcome(state, "why" if state != "done" else "", runs))


def drained(made: SearchPlan | RerunPlan) -> list[Job]:
    """All that is left, every trial a little better than the one before it."""
    jobs: list[Job] = []
    while (job := made.next()) is not None:
        jobs.append(job)
        ends(made, job.trial, "done", 0.3 + len(jobs) / 100, job.seeds[0])
    return jobs


def test_splits_take_turns_and_the_first_trial_is_the_baseline(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.trials=2", "search.seeds=3", "seed=5")
    kept = search_folder(search)
    made = plan(kept)
    jobs = drained(made)
    assert [job.trial.file for job in jobs] == ["2-000", "4-000", "2-001", "4-001"]
    assert [job.may_stop for job in jobs] == [False, False, True, True]
    assert jobs[0].seeds == [5, 6, 7]
    assert kept.trials("2")[0].values == {"pseudo.tau": "0.7", "pseudo.epsilon": "0.1"}
    assert made.total == 4


def test_the_baseline_smooths_as_the_run_does(tmp_path: Path) -> None:
    kept = search_folder(config(tmp_path / "s", "search.trials=1", "pseudo.forward=true"))
    drained(plan(kept))
    assert float(kept.trials("2")[0].values["pseudo.epsilon"]) == 0


def test_what_is_finished_is_not_done_again_and_what_was_interrupted_comes_first(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.trials=3")
    stored = [
        trial(0, 0.5),
        trial(1, None, "running"),
        trial(2, None, "crashed"),
        trial(0, 0.2, "stopped", split="4"),
    ]
    before = {one.file: dict(one.values) for one in stored}
    kept = search_folder(search, *stored)
    assert [job.trial.file for job in drained(plan(kept))] == ["2-001", "2-002", "4-001", "4-002"]
    assert {one.file: one.values for one in kept.trials() if one.file in before} == before
    assert drained(plan(kept)) == []
    more = config(tmp_path / "s", "search.trials=4")
    assert [job.trial.file for job in drained(plan(search_folder(more)))] == ["2-003", "4-003"]


def test_a_search_that_was_killed_proposes_what_it_would_have(tmp_path: Path) -> None:
    words = ("search.trials=8", "search.algorithm=optuna")
    whole = search_folder(config(tmp_path / "a", *words))
    drained(plan(whole))
    parts = search_folder(config(tmp_path / "b", *words))
    for _ in range(4):
        made = plan(parts)
        for _ in range(4):
            job = made.next()
            assert job is not None
            ends(made, job.trial, "done", 0.3 + len(parts.trials()) / 100)
    assert [one.values for one in parts.trials("2")] == [one.values for one in whole.trials("2")]


def test_a_grid_ends_with_its_last_combination(tmp_path: Path) -> None:
    words = ("search.algorithm=grid", "space.pseudo.tau=grid(0.5,0.7)", "space.pseudo.epsilon=grid(0,0.1)")
    search = config(tmp_path / "s", *words, "search.trials=99")
    kept = search_folder(search)
    drained(plan(kept))
    tried = [tuple(one.values.values()) for one in kept.trials("4")]
    assert sorted(tried) == [("0.5", "0"), ("0.5", "0.1"), ("0.7", "0"), ("0.7", "0.1")]
    assert tried[0] == ("0.7", "0.1")


def test_outcomes_are_kept_with_their_reasons(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.trials=1")
    kept = search_folder(search)
    made = plan(kept)
    states: tuple[State, ...] = ("crashed", "stopped")
    for state in states:
        job = made.next()
        assert job is not None
        ends(made, job.trial, state)
    assert [(one.state, one.reason) for one in SearchFolder(search).trials() or kept.trials()] == [
        ("crashed", "why"),
        ("stopped", "why"),
    ]


def test_the_best_and_the_defaults_are_trained_with_unseen_seeds_once(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.held_out=2", "search.seeds=2", "search.final_seeds=0")
    kept = search_folder(search, trial(0, 0.5), trial(1, 0.6), trial(2, 0.4), trial(0, 0.5, split="4"))
    jobs = drained(RerunPlan("held_out", kept, lambda _: None))
    assert [(job.trial.file, job.seeds, job.may_stop) for job in jobs] == [
        ("2-001", [2, 3], False),
        ("2-000", [2, 3], False),
        ("4-000", [2, 3], False),
    ]
    left = RerunPlan("held_out", kept, lambda _: None)
    assert [job.seeds for job in drained(left)] == [[3]] * 3
    assert len(RerunPlan("held_out", kept, lambda _: None)) == 0


def test_finalists_get_further_seeds_and_the_best_is_that_of_all_seeds(tmp_path: Path) -> None:
    search = config(
        tmp_path / "s", "search.finalists=2", "search.final_seeds=2", "search.held_out=1", "seed=5"
    )
    scores = [0.5, 0.9, 0.8, 0.7]
    kept = search_folder(search, *(trial(number, miou) for number, miou in enumerate(scores)))
    made = RerunPlan("finals", kept, lambda _: None)
    jobs = {}
    for miou in (0.3, 0.6, 0.58):
        job = made.next()
        assert job is not None
        jobs[job.trial.number] = job.seeds
        made.end(job.trial, Outcome("done", runs=[run(miou, seed=seed) for seed in job.seeds]))
    assert jobs == {1: [6, 7], 2: [6, 7], 0: [6, 7]}
    assert made.next() is None
    best = kept.best("2")
    assert best is not None
    assert (best.number, best.score) == (2, 0.8)
    assert best.overall == pytest.approx((0.8 + 2 * 0.6) / 3)
    unseen = drained(RerunPlan("held_out", kept, lambda _: None))
    assert [(job.trial.file, job.seeds) for job in unseen] == [("2-002", [8]), ("2-000", [8])]


def test_one_whose_further_seed_crashed_is_not_the_best_and_is_tried_again(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.finalists=1", "search.final_seeds=1")
    kept = search_folder(search, trial(0, 0.5), trial(1, 0.9))
    made = RerunPlan("finals", kept, lambda _: None)
    outcomes: list[tuple[State, float | None]] = [("crashed", None), ("done", 0.4)]
    for state, miou in outcomes:
        job = made.next()
        assert job is not None
        ends(made, job.trial, state, miou, seed=1)
    best = kept.best("2")
    assert best is not None
    assert best.number == 0
    assert kept.trials("2")[1].reason == "on a further seed: why"
    assert [job.trial.file for job in drained(RerunPlan("finals", kept, lambda _: None))] == ["2-001"]
    assert kept.trials("2")[1].reason == ""


@pytest.mark.parametrize("word", ["search.finalists=0", "search.final_seeds=0"])
def test_no_further_seeds_where_none_are_wanted(tmp_path: Path, word: str) -> None:
    kept = search_folder(config(tmp_path / "s", word), trial(0, 0.5), trial(1, 0.9))
    assert len(RerunPlan("finals", kept, lambda _: None)) == 0


def test_a_crash_on_an_unseen_seed_leaves_the_trial_as_it_was(tmp_path: Path) -> None:
    search = config(tmp_path / "s")
    kept = search_folder(search, trial(0, 0.5))
    made = RerunPlan("held_out", kept, lambda _: None)
    job = made.next()
    assert job is not None
    ends(made, job.trial, "crashed")
    assert (kept.trials()[0].state, kept.trials()[0].held_out) == ("done", [])
    assert kept.trials()[0].reason == "on an unseen seed: why"
