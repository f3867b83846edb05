"""Which trials are stopped: those that are behind in their own split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from segray.tuning.records import Trial
from segray.tuning.trial import TrialCoordinator
from tests.tuning.searches import config, trial

pytest.importorskip("ray.tune")


class Scheduler:
    """The decisions of a search's coordinator."""

    def __init__(self, folder: Path, *overrides: str, finished: Sequence[Trial] = ()) -> None:
        self._coordinator = TrialCoordinator(config(folder / "s", "search.grace=3", *overrides), finished)

    def stopped(self, one: Trial, epoch: int, miou: float, *, may_stop: bool = True) -> bool:
        return self._coordinator.report(one, epoch, miou, may_stop)


def test_a_trial_behind_the_others_of_its_split_is_stopped(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path)
    assert not any(scheduler.stopped(trial(n, None), 3, 0.5 + n / 10) for n in (1, 2, 3))
    assert scheduler.stopped(trial(4, None), 3, 0.4)
    assert not scheduler.stopped(trial(5, None), 2, 0.1)


def test_few_labels_never_compete_with_many(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path)
    for number in (1, 2, 3):
        scheduler.stopped(trial(number, None, split="4"), 3, 0.9)
    assert not scheduler.stopped(trial(1, None, split="2"), 3, 0.2)


def test_the_baseline_and_a_last_epoch_are_never_stopped(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path)
    for number in (1, 2, 3):
        scheduler.stopped(trial(number, None), 3, 0.9)
        scheduler.stopped(trial(number, None), 9, 0.9)
    assert not scheduler.stopped(trial(0, None), 3, 0.1)
    assert not scheduler.stopped(trial(5, None), 9, 0.1)
    assert not scheduler.stopped(trial(6, None), 3, 0.1, may_stop=False)


def test_trials_of_an_earlier_command_count(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path, finished=[trial(n, 0.9) for n in (1, 2, 3)])
    assert scheduler.stopped(trial(4, None), 3, 0.1)


def test_without_a_scheduler_all_run_to_the_end(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path, "search.scheduler=none")
    assert not any(scheduler.stopped(trial(n, None), 3, 0.9 - n / 10) for n in (1, 2, 3, 4))


def test_later_seeds_are_not_compared(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path)
    for number in (1, 2, 3):
        assert not scheduler.stopped(trial(number, None), 3, 0.1, may_stop=False)
    assert not scheduler.stopped(trial(4, None), 3, 0.05)


def test_all_workers_of_a_trial_get_the_same_decision(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path, finished=[trial(n, 0.9) for n in (1, 2, 3)])
    assert [scheduler.stopped(trial(4, None), 3, 0.1) for _ in range(4)] == [True] * 4
    assert [scheduler.stopped(trial(5, None), 3, 0.95) for _ in range(4)] == [False] * 4


def test_progress_is_the_last_report(tmp_path: Path) -> None:
    coordinator = TrialCoordinator(config(tmp_path / "s"), [])
    for epoch in (1, 2):
        coordinator.report(trial(1, None), epoch, 0.1 * epoch, may_stop=False)
    assert coordinator.progress() == {"2-001": (2, 0.2)}


def test_a_placement_group_is_released_once(tmp_path: Path) -> None:
    coordinator = TrialCoordinator(config(tmp_path / "s"), [])
    coordinator.hold("a", "group")
    assert (coordinator.release("a"), coordinator.release("a")) == ("group", None)
