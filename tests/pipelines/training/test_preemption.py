"""A machine is about to be taken away: the run saves at once, between two validations, and resumes there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.training import loop
from segray.pipelines.training.checkpoints import STATE, load_checkpoint, score
from segray.pipelines.training.data.sampler import StepBatch
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.history import HistoryEntry
from segray.pipelines.training.loop import Trainer
from segray.pipelines.training.run_folder import RunFolder
from segray.pipelines.training.session import LocalSession
from segray.pipelines.training.step import StepMetrics
from tests.pipelines.training.runs import book, config, curve, trainer

LAST = 6
"""The step that the machine does not live to see; an interval of two epochs has ten."""


class Preempted(LocalSession):
    """Told of it before step 4, and at every look after that."""

    looks = 0
    lines: tuple[str, ...] = ()

    def preempted(self) -> bool:
        self.looks += 1
        return self.looks > 2

    def log(self, line: str) -> None:
        self.lines += (line,)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr(loop, "WATCH_EVERY", 1)
    labels, root = book(tmp_path / "book", n=16)
    words = ["train.epochs=4", "train.validate_every=2"]
    return config(tmp_path / "run", labels, root, *words)


def lose_machine(run: TrainConfig, monkeypatch: pytest.MonkeyPatch, last: int) -> Preempted:
    """The session of a run whose machine goes in step `last`."""

    def step(self: Trainer, batch: StepBatch) -> StepMetrics:
        if batch.step == last:
            raise ConnectionError("the machine is gone")
        return before(self, batch)

    before = Trainer.train_step
    session = Preempted(str(RunFolder(run).out) + "/checkpoints")
    torch.set_num_threads(1)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        lost = Trainer(run, open_data(run.data, run.seed), session, None)
        with pytest.raises(ConnectionError):
            lost.run()
    return session


def same_but_for_time(one: HistoryEntry, other: HistoryEntry) -> None:
    left, right = ({k: v for k, v in e.items() if k not in {"seconds", "waiting"}} for e in (one, other))
    assert left.keys() == right.keys()
    for key, value in left.items():
        expected = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        assert right[key] == expected, key


def test_the_run_resumes_in_the_middle_and_ends_the_same(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trainer(run, tmp_path / "plain").run()
    assert [entry["step"] for entry in plain] == [10, 20]
    session = lose_machine(run, monkeypatch, LAST)
    assert session.looks == 3, "it saves once, and looks no more"
    assert [line for line in session.lines if "taken away" in line] == [
        "a machine is about to be taken away: saved at step 3 of 20"
    ]
    resumed = trainer(run, tmp_path / "run" / "checkpoints")
    assert resumed.progress.step == 3
    history = resumed.run()
    assert curve(history)[-1][1] == curve(plain)[-1][1]
    for one, other in zip(plain, history, strict=True):
        same_but_for_time(one, other)


def test_what_was_not_validated_is_neither_best_nor_last(
    run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(run)
    lose_machine(run, monkeypatch, LAST)
    (interim,) = folder.states()
    assert score(interim) == -1
    folder.export()
    assert not (Path(run.out) / "best").exists()


@pytest.mark.parametrize("damage", [{"losses": []}, {"steps": "3"}, {"counts": [1]}, {"seconds": None}])
def test_sums_that_are_none_are_refused(
    run: TrainConfig, monkeypatch: pytest.MonkeyPatch, damage: dict[str, object]
) -> None:
    lose_machine(run, monkeypatch, LAST)
    (interim,) = RunFolder(run).states()
    path = Path(interim) / STATE
    state = json.loads(path.read_text())
    state["interim"] |= damage
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"state\.json is damaged \(sums without figures\)"):
        load_checkpoint(interim)
