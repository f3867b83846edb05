"""Which trials are stopped: those that are behind in their own split."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from segray.tuning.ledger import Trial
from segray.tuning.schedule import PerSplitASHA, TrialSearcher
from tests.tuning.searches import config, trial

pytest.importorskip("ray.tune")


class Verdicts:
    """A scheduler and what it has said of each trial, last."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.said: dict[str, bool] = {}
        self.suggestions = TrialSearcher(SimpleNamespace(next=lambda: None, ended=lambda *_: None))
        self.families = PerSplitASHA(
            config(folder / "s", "search.grace=3", *words), self.suggestions, self._judge
        )

    def _judge(self, file: str, epoch: float, stop: bool) -> None:
        self.said[file] = stop

    def stopped(self, one: Trial, epoch: int, miou: float, *, judged: bool = True) -> bool:
        self.suggestions.given[one.file] = (one, {"judged": judged})
        tune_trial = SimpleNamespace(trial_id=one.file)
        told = self.families.on_trial_result(None, tune_trial, {"epoch": epoch, "miou": miou})
        assert told == "CONTINUE"
        return self.said[one.file]


def test_a_trial_behind_the_others_of_its_split_is_stopped(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path)
    assert not any(verdicts.stopped(trial(n, None), 3, 0.5 + n / 10) for n in (1, 2, 3))
    assert verdicts.stopped(trial(4, None), 3, 0.4)
    assert not verdicts.stopped(trial(5, None), 2, 0.1)


def test_few_labels_never_compete_with_many(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path)
    for number in (1, 2, 3):
        verdicts.stopped(trial(number, None, split="4"), 3, 0.9)
    assert not verdicts.stopped(trial(1, None, split="2"), 3, 0.2)


def test_the_configuration_as_it_stands_and_a_last_epoch_are_never_stopped(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path)
    for number in (1, 2, 3):
        verdicts.stopped(trial(number, None), 3, 0.9)
        verdicts.stopped(trial(number, None), 9, 0.9)
    assert not verdicts.stopped(trial(0, None), 3, 0.1)
    assert not verdicts.stopped(trial(5, None), 9, 0.1)
    assert not verdicts.stopped(trial(6, None), 3, 0.1, judged=False)


def test_trials_of_an_earlier_command_count(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path)
    verdicts.families.replay([trial(n, 0.9) for n in (1, 2, 3)])
    assert verdicts.stopped(trial(4, None), 3, 0.1)


def test_without_a_scheduler_all_run_to_the_end(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path, "search.scheduler=none")
    assert not any(verdicts.stopped(trial(n, None), 3, 0.9 - n / 10) for n in (1, 2, 3, 4))


def test_later_seeds_are_not_judged(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path)
    one = trial(1, None)
    verdicts.suggestions.given[one.file] = (one, {"judged": True})
    verdicts.families.on_trial_result(None, SimpleNamespace(trial_id=one.file), {"again": 3, "miou": 0.1})
    assert verdicts.said == {}
