from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import pytest

from segray.pipelines.engine.ray_output import without_greeting
from segray.pipelines.engine.waiting import Waiting

_PATIENCE_S = 60.0


def _until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(_PATIENCE_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come true")


def _printed(capfd: pytest.CaptureFixture[str], text: list[str]) -> bool:
    text.append(capfd.readouterr().err)
    return bool(text[-1])


def test_a_long_wait_says_for_what_again_and_again(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with Waiting("the moon", after=0.01, every=0.01):
        _until(lambda: _printed(capfd, lines))
        _until(lambda: _printed(capfd, lines))
    assert lines[-1].startswith("waiting for the moon (0 s)\n")


def test_a_short_wait_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Waiting("the moon", after=_PATIENCE_S):
        pass
    assert capfd.readouterr().err == ""


def test_what_comes_next_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with Waiting("the moon", after=0.01, every=0.01) as wait:
        _until(lambda: _printed(capfd, lines))
        wait.heard("the sun")
        _until(lambda: _printed(capfd, lines) and "waiting for the sun" in lines[-1])


def test_it_is_seen_while_rays_greeting_is_caught(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with Waiting("Ray to start", after=0.01), without_greeting():
        _until(lambda: _printed(capfd, lines))
    assert lines[-1].startswith("waiting for Ray to start")


def test_it_replaces_a_line_of_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, terminal = os.openpty()
    with os.fdopen(seen, "rb", buffering=0) as screen, os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with Waiting("the moon", after=0.01):
            assert screen.read(100).startswith(b"\r\033[Kwaiting for the moon (0 s)")
