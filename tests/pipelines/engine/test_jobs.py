from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from segray.pipelines.engine import jobs
from segray.pipelines.errors import UserError
from tests.processes import ctrl_c_is_heard


class Info(NamedTuple):
    """What Ray knows about a job."""

    status: str
    message: str | None
    driver_exit_code: int | None


@dataclass
class Server:
    """A job server whose connections end after some characters of the text; the last one is whole."""

    cuts: list[int]
    text: str = "0123456789"
    status: str = "SUCCEEDED"
    exit_code: int | None = 0

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        text = self.text
        cut = self.cuts.pop(0) if self.cuts else None
        for start in range(0, cut or len(text), 3):
            yield text[start : min(start + 3, cut or len(text))]
        if cut is not None:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_status(self, job: str) -> str:
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


def test_the_output_of_a_job_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Its pieces end anywhere, within a sequence or a key, too."""
    text = "a\x1b]0;x\x07b\r\n50 %\r60 %\r70 %\nhttps://h/x?sig=SECRET&y=1\nno end \u202e\r"
    assert jobs.follow(Server([9, 40], text=text), "j") == 0
    lines = ["a\\x1b]0;x\\x07b", "50 %", "60 %", "70 %", "https://h/x?sig=***&y=1", "no end \\u202e"]
    assert capsys.readouterr().out == "\n".join(lines)


def test_output_without_a_line_end_is_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    length = 3 * jobs._LONGEST
    assert jobs.follow(Server([], text="x" * length), "j") == 0
    assert capsys.readouterr().out.replace("\n", "") == "x" * length


@pytest.mark.parametrize("error", [RuntimeError("500"), KeyError("x"), RecursionError()])
def test_output_that_cannot_be_read_any_more_is_given_up(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def tail(self: Server, job: str) -> AsyncIterator[str]:
        yield "begin"
        raise error

    monkeypatch.setattr(Server, "tail_job_logs", tail)
    assert jobs.follow(Server([]), "j") == 0
    assert capsys.readouterr() == ("begin", "the rest of its output cannot be read\n")


def test_a_job_that_is_silent_is_waited_for_in_one_connection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connections: list[str] = []
    asked: list[str] = []

    async def tail(self: Server, job: str) -> AsyncIterator[str]:
        connections.append(job)
        yield "begin"
        while len(asked) < 3:
            await asyncio.sleep(0)
        yield " end"

    def status(self: Server, job: str) -> str:
        asked.append(job)
        return "SUCCEEDED" if len(asked) > 3 else "RUNNING"

    monkeypatch.setattr(jobs, "_SILENCE_S", 0.01)
    monkeypatch.setattr(Server, "tail_job_logs", tail)
    monkeypatch.setattr(Server, "get_job_status", status)
    assert jobs.follow(Server([]), "j") == 0
    assert capsys.readouterr() == ("begin end", "")
    assert len(connections) == 1


def test_a_server_that_is_silent_when_the_job_has_ended_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connections: list[str] = []

    async def tail(self: Server, job: str) -> AsyncIterator[str]:
        connections.append(job)
        yield "begin"
        await asyncio.sleep(2)
        pytest.fail("it is waited for")

    monkeypatch.setattr(jobs, "_SILENCE_S", 0.001)
    monkeypatch.setattr(Server, "tail_job_logs", tail)
    assert jobs.follow(Server([]), "j") == 0
    assert capsys.readouterr() == ("begin", "the rest of its output cannot be read\n")
    # Each of them takes 10 s and a pause: about a minute in all.
    assert len(connections) == 6


@pytest.mark.parametrize(("text", "rest_s"), [("x", 0.1), ("", 600)])
def test_a_server_that_drips_when_the_job_has_ended_is_given_up(
    text: str, rest_s: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is asked although text arrives; empty text is silence."""
    asked: list[str] = []

    async def tail(self: Server, job: str) -> AsyncIterator[str]:
        for _ in range(5000):
            yield text
            await asyncio.sleep(0.001)
        pytest.fail("it is waited for")

    def status(self: Server, job: str) -> str:
        asked.append(job)
        return "SUCCEEDED" if len(asked) > 2 else "RUNNING"

    for name, seconds in [("_SILENCE_S", 0.05), ("_ASK_S", 0.1), ("_REST_S", rest_s)]:
        monkeypatch.setattr(jobs, name, seconds)
    monkeypatch.setattr(Server, "tail_job_logs", tail)
    monkeypatch.setattr(Server, "get_job_status", status)
    assert jobs.follow(Server([]), "j") == 0
    out, err = capsys.readouterr()
    assert (set(out), err) == (set(text), "the rest of its output cannot be read\n")
    assert len(asked) == 3


def test_ctrl_c_is_heard_while_the_status_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    over, main = threading.Event(), threading.main_thread().ident
    assert main is not None

    def status(self: Server, job: str) -> str:
        signal.pthread_kill(main, signal.SIGINT)
        over.wait(60)
        return "RUNNING"

    monkeypatch.setattr(Server, "get_job_status", status)
    begin = time.monotonic()
    with ctrl_c_is_heard(), pytest.raises(KeyboardInterrupt):
        jobs.follow(Server([]), "j")
    assert time.monotonic() - begin < 30
    over.set()
    assert "job j is still running" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), ValueError("x"), OSError("x")])
def test_an_end_of_any_form_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def info(self: Server, job: str) -> Info:
        raise error

    monkeypatch.setattr(Server, "get_job_info", info)
    with pytest.raises(
        UserError, match=r"^cannot reach the cluster \(.*\); job j may still be running"
    ) as caught:
        jobs.follow(Server([]), "j")
    assert caught.value.exit_code == 1


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
    assert jobs.follow(Server([], status=status, exit_code=code), "j") == expected
    assert capsys.readouterr().err == f"segray: {message}\n"


def test_a_server_that_is_gone_for_good_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def status(self: Server, job: str) -> str:
        asked.append(job)
        raise ConnectionError("refused\nmore")

    monkeypatch.setattr(jobs, "_LOST_S", 0.2)
    monkeypatch.setattr(Server, "get_job_status", status)
    message = r"^cannot reach the cluster \(refused\); job j may still be running"
    with pytest.raises(UserError, match=message) as caught:
        jobs.follow(Server([1]), "j")
    assert len(asked) > 1
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
