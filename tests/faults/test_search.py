"""Faults of a search: the other trials finish, the table has the reason, and the same command resumes it."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.training.runs import SHORT, book
from tests.processes import Finished, started

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

EPOCHS = 12


@dataclass(frozen=True)
class Story:
    """A search that was killed, then lost the driver of a trial, and had a trial that cannot run.

    Attributes:
        first: epochs that the killed search had trained.
        second: how the search after it ended.
        third: how it ended once the cause of the crash was gone.
        records: each trial's record after the second and after the third.
    """

    out: Path
    first: int
    second: Finished
    third: Finished
    records: tuple[dict[str, Any], dict[str, Any]]


def checkpoints(out: Path) -> list[Path]:
    return list(out.glob("trials/3-000/seed-0/checkpoints/checkpoint_*/state.json"))


def records(out: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in out.glob("trials/*/trial.json")}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Label set and data set."""
    return book(tmp_path_factory.mktemp("search") / "book")


@pytest.fixture(scope="module")
def story(places: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Story:
    labels, root = places
    folder = tmp_path_factory.mktemp("story")
    out, split = folder / "search", folder / "unlabelled.txt"
    words = [
        *("tune", *SHORT, f"out={out}", f"data.root={root}", f"data.labels={labels}"),
        *(
            f"train.epochs={EPOCHS}",
            "train.max_failures=1",
            "search.algorithm=grid",
            "search.held_out=0",
            "search.final_seeds=0",
        ),
        *("space.pseudo.tau=null", "space.pseudo.epsilon=null", f"space.data.unlabelled=grid({split})"),
    ]
    with started(words, folder / "first") as process:
        process.wait_for(lambda: len(checkpoints(out)) > 0)
        process.kill()
        process.wait_for_workers()
    first = len(checkpoints(out))
    known = set(checkpoints(out))
    with started(words, folder / "second") as process:
        process.wait_for(lambda: not set(checkpoints(out)) <= known)
        assert process.kill_worker("ImplicitFunc")
        second = process.wait()
    before = records(out)
    images = sorted(path.name for path in (root / "images").iterdir())
    split.write_text("\n".join(images[:2]) + "\n")
    with started(words, folder / "third") as process:
        third = process.wait()
    return Story(out, first, second, third, (before, records(out)))


def test_a_killed_search_and_a_killed_trial_driver_resume_from_their_checkpoints(story: Story) -> None:
    assert story.second.code == 0, story.second.err
    assert 0 < story.first < EPOCHS
    done = story.records[0]["3-000"]
    assert done["state"] == "done"
    assert [epoch for epoch, _ in done["runs"][0]["curve"]] == [float(n) for n in range(1, EPOCHS + 1)]


def test_a_trial_that_crashes_is_a_line_with_its_reason(story: Story) -> None:
    crashed = story.records[0]["3-001"]
    assert crashed["state"] == "crashed"
    assert "data.unlabelled: no file" in crashed["reason"]
    assert "3-001" in story.second.err
    assert "crashed 3-001: data.unlabelled: no file" in story.second.out


def test_the_same_command_tries_the_crashed_trial_again_and_no_other(story: Story) -> None:
    assert story.third.code == 0, story.third.err
    before, after = story.records
    assert after["3-001"]["state"] == "done"
    assert after["3-000"] == before["3-000"]
    rows = list(csv.DictReader((story.out / "results.csv").open()))
    assert [(row["trial"], row["outcome"]) for row in rows] == [("3-000", "done"), ("3-001", "done")]


def test_a_node_with_trials_is_lost(places: tuple[Path, Path], tmp_path: Path) -> None:
    labels, root = places
    out = tmp_path / "search"
    words = [
        *("tune", *SHORT, f"out={out}", f"data.root={root}", f"data.labels={labels}"),
        # A worker fills a node, and there are three: both trials run, and find room again when one is lost.
        *(
            "train.num_cpus=2",
            "search.concurrent=2",
            "search.trials=2",
            "search.held_out=0",
            "search.final_seeds=0",
        ),
        *(f"train.epochs={EPOCHS}", "search.algorithm=random", "search.scheduler=none"),
    ]
    with started(words, tmp_path / "log", module="tests.faults.lose_node") as process:
        ended = process.wait()
    assert ended.code == 0, ended.err
    found = re.search(r"lost a node with (\d+) actors after (\d+) parts", ended.out)
    assert found is not None
    assert int(found[1]) > 0
    trials = records(out)
    assert sorted(trials) == ["3-000", "3-001"]
    for one in trials.values():
        assert one["state"] == "done", one["reason"]
        assert [epoch for epoch, _ in one["runs"][0]["curve"]] == [float(n) for n in range(1, EPOCHS + 1)]
