from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from segray.pipelines.engine import jobs
from segray.pipelines.errors import UserError


class Info(NamedTuple):
    """What Ray knows about a job."""

    status: str
    message: str | None
    driver_exit_code: int | None


@dataclass
class Server:
    """A job server whose connections end after some characters of "0123456789"; the last one is whole."""

    cuts: list[int]
    status: str = "SUCCEEDED"
    exit_code: int | None = 0
    reachable: bool = True

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        text = "0123456789"
        cut = self.cuts.pop(0) if self.cuts else None
        for start in range(0, cut or len(text), 3):
            yield text[start : min(start + 3, cut or len(text))]
        if cut is not None:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_status(self, job: str) -> str:
        if not self.reachable:
            raise ConnectionError("refused\nmore")
        return "RUNNING" if self.cuts else self.status

    def get_job_info(self, job: str) -> Info:
        message = None if self.exit_code is not None else "the node is lost"
        return Info(self.status, message, self.exit_code)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_PAUSE_S", 0)


def test_each_character_is_shown_once_however_often_the_connection_breaks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert jobs.follow(Server([4, 8, 2]), "j") == 0
    assert capsys.readouterr().out == "0123456789"


@pytest.mark.parametrize(
    ("status", "code", "expected", "message"),
    [
        ("FAILED", 3, 3, "job j failed: status 3"),
        ("FAILED", None, 1, "job j failed: the node is lost"),
        ("STOPPED", None, 130, "job j was stopped"),
    ],
)
def test_the_jobs_status_is_ours(
    status: str, code: int | None, expected: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs.follow(Server([], status, code), "j") == expected
    assert capsys.readouterr().err == f"segray: {message}\n"


def test_a_server_that_is_gone_for_good_is_reported() -> None:
    message = r"^cannot reach the cluster \(refused\); job j may still be running"
    with pytest.raises(UserError, match=message) as caught:
        jobs.follow(Server([1], reachable=False), "j")
    assert caught.value.exit_code == 1
    assert "segray submit id=j stop=true" in str(caught.value)


def test_a_server_that_is_not_ready_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [RuntimeError("500: No available agent to submit job"), RuntimeError("500: broken")]

    def call() -> None:
        raise answers.pop(0)

    with pytest.raises(RuntimeError, match="broken"):
        jobs.when_ready(call)
    assert answers == []
    assert capsys.readouterr().err == "waiting for the head's job agent\n"


def test_a_head_that_never_gets_an_agent_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_READY_S", 0)
    calls = []

    def call() -> None:
        calls.append(1)
        raise RuntimeError("500: No available agent to submit job")

    with pytest.raises(UserError, match="the head has no job agent") as caught:
        jobs.when_ready(call)
    assert (caught.value.exit_code, len(calls)) == (1, 1)
