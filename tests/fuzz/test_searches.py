"""Folders of a search, and locks, that somebody sent."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.edits import Built, Cut, Edit, cuts, damaged, edits, with_secret
from tests.fuzz.formats import edited_json, edited_yaml
from tests.fuzz.runner import Runner

pytestmark = pytest.mark.slow

few = settings(max_examples=max(1, settings().max_examples // 3))
"""For what draws charts, which takes half a second."""
LOCK = "locked/.lock.json"


def search(valid: dict[str, bytes], name: str = "search") -> dict[str, bytes]:
    """A search, and its images and masks."""
    folders = (f"{name}/", "images/", "masks/")
    return {name: data for name, data in valid.items() if name.startswith(folders)}


def trials(valid: dict[str, bytes], name: str = "search") -> list[str]:
    return sorted(path for path in valid if path.startswith(f"{name}/") and path.endswith("/trial.json"))


@few
@given(which=st.integers(0, 4), changes=edits)
@example(which=0, changes=[Edit(9, "replace", 10**400)])
def test_records_of_trials(runner: Runner, valid: dict[str, bytes], which: int, changes: list[Edit]) -> None:
    name = trials(valid)[which]
    record = edited_json(valid[name], with_secret(changes, str(runner.secret)))
    runner.check("tune", {**search(valid), name: record})


@few
@given(which=st.integers(0, 4), changes=cuts)
def test_bytes_of_trials(runner: Runner, valid: dict[str, bytes], which: int, changes: list[Cut]) -> None:
    name = trials(valid)[which]
    runner.check("tune", {**search(valid), name: damaged(valid[name], changes)})


@given(changes=edits)
def test_configurations_of_searches(runner: Runner, valid: dict[str, bytes], changes: list[Edit]) -> None:
    name = "search/config.yaml"
    config = edited_yaml(valid[name], with_secret(changes, str(runner.secret)))
    runner.check("tune", {**search(valid), name: config})


@few
@given(changes=edits)
@example(changes=[Edit(0, "replace", Built("zeros", 20_000))])
def test_records_of_the_data(runner: Runner, valid: dict[str, bytes], changes: list[Edit]) -> None:
    name = "search/data.json"
    record = edited_json(valid[name], with_secret(changes, str(runner.secret)))
    runner.check("tune", {**search(valid), name: record})


@few
@given(changes=cuts)
def test_bytes_of_the_record_of_the_data(runner: Runner, valid: dict[str, bytes], changes: list[Cut]) -> None:
    name = "search/data.json"
    runner.check("tune", {**search(valid), name: damaged(valid[name], changes)})


MOVED = ("moved/data.json", "moved/trials/2-000/trial.json", "moved/trials/2-001/trial.json")


@given(which=st.sampled_from(MOVED), changes=edits)
def test_searches_that_were_moved(
    runner: Runner, valid: dict[str, bytes], which: str, changes: list[Edit]
) -> None:
    record = edited_json(valid[which], with_secret(changes, str(runner.secret)))
    runner.check("tune moved", {**search(valid, "moved"), which: record})


@given(changes=edits)
def test_configurations_of_searches_that_were_moved(
    runner: Runner, valid: dict[str, bytes], changes: list[Edit]
) -> None:
    name = "moved/config.yaml"
    config = edited_yaml(valid[name], with_secret(changes, str(runner.secret)))
    runner.check("tune moved", {**search(valid, "moved"), name: config})


LARGE = {"search/trials/2-000/trial.json": b" ", "search/data.json": b" ", "search/config.yaml": b"#"}


@pytest.mark.parametrize("name", LARGE)
def test_files_of_a_search_that_are_huge_are_not_read(
    runner: Runner, valid: dict[str, bytes], name: str
) -> None:
    files = {**search(valid), name: valid[name] + b"\n" + LARGE[name] * (1 << 27)}
    assert runner.read("tune", files, max_bytes=1 << 26).faults == ()


@given(changes=edits)
def test_locks(runner: Runner, valid: dict[str, bytes], changes: list[Edit]) -> None:
    runner.check("lock", {LOCK: edited_json(valid[LOCK], with_secret(changes, str(runner.secret)))})


@given(changes=cuts, kernel=st.binary(max_size=20))
def test_bytes_of_locks(runner: Runner, valid: dict[str, bytes], changes: list[Cut], kernel: bytes) -> None:
    runner.check("lock", {LOCK: damaged(valid[LOCK], changes), "locked/.lock": kernel})


def test_the_valid_ones_are_taken(runner: Runner, valid: dict[str, bytes]) -> None:
    assert runner.check("tune", search(valid)).how == "ok"
    assert runner.check("tune moved", search(valid, "moved")).how == "ok"
    assert runner.check("lock", {LOCK: valid[LOCK]}).how == "ok"
    answer = runner.check("repair", valid)
    assert "nothing is labelled in this test" in answer.text
