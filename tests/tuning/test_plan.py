"""Which trial comes next."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.config.tune import TuneConfig
from tests.tuning.searches import config, ledger, run, trial
from tuning.ledger import Ledger, Trial
from tuning.plan import HeldOutPlan, SearchPlan


def given(one: Trial, seeds: list[int], judged: bool) -> dict[str, Any]:
    return {"file": one.file, "seeds": seeds, "judged": judged}


def plan(search: TuneConfig, kept: Ledger) -> SearchPlan:
    return SearchPlan(search, kept, 10, given, lambda _: None)


def ends(
    made: SearchPlan | HeldOutPlan, one: Trial, state: str, miou: float | None = None, seed: int = 0
) -> None:
    runs = [] if miou is None else [asdict(run(miou, seed=seed))]
    made.ended(one, {"state": state, "reason": "why" if state != "done" else "", "runs": runs})


def drained(made: SearchPlan | HeldOutPlan) -> list[dict[str, Any]]:
    """All that is left, every trial a little better than the one before it."""
    jobs = []
    while (job := made.next()) is not None:
        jobs.append(job[1])
        ends(made, job[0], "done", 0.3 + len(jobs) / 100, job[1]["seeds"][0])
    return jobs


def test_splits_take_turns_and_the_first_trial_is_the_configuration_as_it_stands(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.trials=2", "search.seeds=3", "seed=5")
    kept = ledger(search)
    made = plan(search, kept)
    jobs = drained(made)
    assert [job["file"] for job in jobs] == ["2-000", "4-000", "2-001", "4-001"]
    assert [job["judged"] for job in jobs] == [False, False, True, True]
    assert jobs[0]["seeds"] == [5, 6, 7]
    assert kept.trials("2")[0].values == {"pseudo.tau": "0.7", "pseudo.epsilon": "0.1"}
    assert made.total == 4


def test_what_is_finished_is_not_done_again_and_what_was_interrupted_comes_first(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.trials=3")
    told = [
        trial(0, 0.5),
        trial(1, None, "running"),
        trial(2, None, "crashed"),
        trial(0, 0.2, "stopped", split="4"),
    ]
    before = {one.file: dict(one.values) for one in told}
    kept = ledger(search, *told)
    assert [job["file"] for job in drained(plan(search, kept))] == ["2-001", "2-002", "4-001", "4-002"]
    assert {one.file: one.values for one in kept.trials() if one.file in before} == before
    assert drained(plan(search, kept)) == []
    more = config(tmp_path / "s", "search.trials=4")
    assert [job["file"] for job in drained(plan(more, kept))] == ["2-003", "4-003"]


def test_a_search_that_was_killed_proposes_what_it_would_have(tmp_path: Path) -> None:
    words = ("search.trials=8", "search.algorithm=optuna")
    whole = ledger(config(tmp_path / "a", *words))
    drained(plan(config(tmp_path / "a", *words), whole))
    parts = ledger(config(tmp_path / "b", *words))
    for _ in range(4):
        made = plan(config(tmp_path / "b", *words), parts)
        for _ in range(4):
            job = made.next()
            assert job is not None
            ends(made, job[0], "done", 0.3 + len(parts.trials()) / 100)
    assert [one.values for one in parts.trials("2")] == [one.values for one in whole.trials("2")]


def test_a_grid_ends_with_its_last_combination(tmp_path: Path) -> None:
    words = ("search.algorithm=grid", "space.pseudo.tau=grid(0.5,0.7)", "space.pseudo.epsilon=grid(0,0.1)")
    search = config(tmp_path / "s", *words, "search.trials=99")
    kept = ledger(search)
    drained(plan(search, kept))
    tried = [tuple(one.values.values()) for one in kept.trials("4")]
    assert sorted(tried) == [("0.5", "0"), ("0.5", "0.1"), ("0.7", "0"), ("0.7", "0.1")]
    assert tried[0] == ("0.7", "0.1")


def test_outcomes_are_kept_with_their_reasons(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.trials=1")
    kept = ledger(search)
    made = plan(search, kept)
    for state in ("crashed", "stopped"):
        job = made.next()
        assert job is not None
        ends(made, job[0], state)
    assert [(one.state, one.reason) for one in Ledger(search).trials() or kept.trials()] == [
        ("crashed", "why"),
        ("stopped", "why"),
    ]


def test_the_best_and_the_defaults_are_trained_with_unseen_seeds_once(tmp_path: Path) -> None:
    search = config(tmp_path / "s", "search.held_out=2", "search.seeds=2")
    kept = ledger(search, trial(0, 0.5), trial(1, 0.6), trial(2, 0.4), trial(0, 0.5, split="4"))
    jobs = drained(HeldOutPlan(search, kept, given, lambda _: None))
    assert [(job["file"], job["seeds"], job["judged"]) for job in jobs] == [
        ("2-000", [2, 3], False),
        ("2-001", [2, 3], False),
        ("4-000", [2, 3], False),
    ]
    left = HeldOutPlan(search, kept, given, lambda _: None)
    assert [job["seeds"] for job in drained(left)] == [[3]] * 3
    assert len(HeldOutPlan(search, kept, given, lambda _: None)) == 0


def test_a_crash_on_an_unseen_seed_leaves_the_trial_as_it_was(tmp_path: Path) -> None:
    search = config(tmp_path / "s")
    kept = ledger(search, trial(0, 0.5))
    made = HeldOutPlan(search, kept, given, lambda _: None)
    job = made.next()
    assert job is not None
    ends(made, job[0], "crashed")
    assert (kept.trials()[0].state, kept.trials()[0].held_out) == ("done", [])
    assert kept.trials()[0].reason == "on an unseen seed: why"
