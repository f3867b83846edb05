from __future__ import annotations

import threading

import pytest

from segray.pipelines.engine import waiting
from segray.pipelines.training import log_collector
from segray.pipelines.training.session import LocalSession, Notes


def test_what_a_run_does_is_known_to_the_driver() -> None:
    collector = log_collector.LogCollector()
    collector.write("epoch 1")
    collector.note("steps 1 to 9 of 90, 4 done")
    assert collector.drain() == (["epoch 1"], "steps 1 to 9 of 90, 4 done")
    assert collector.drain() == ([], "steps 1 to 9 of 90, 4 done")


def test_notes_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(LocalSession, "note", lambda _, doing: said.append(doing))
    notes = Notes(LocalSession.__new__(LocalSession), "steps 1 to 9 of 90")
    for step in range(9):
        notes.show(step)
    assert said == ["steps 1 to 9 of 90, 0 done"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_silent_worker_is_waited_for_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log_collector, "Waiting", lambda what: waiting.Waiting(what, after=0.01, every=0.01))
    text, pause = "", threading.Event()
    with log_collector.log_collector() as collector:
        while "waiting for the training workers: their place on the cluster" not in text:
            text += capfd.readouterr().err
            pause.wait(0.01)
        collector.note.remote("the network to load")
        while "waiting for the network to load" not in text:
            text += capfd.readouterr().err
            pause.wait(0.01)
