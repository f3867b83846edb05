"""Talk to the job server of a Ray cluster: open it, follow a job to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from segray.pipelines.errors import UserError

_TALKATIVE = (
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)
_NOT_READY = "No available agent"
_NO_AGENT = (
    "the job was not taken: the head has no job agent; its dashboard_agent.log tells why (where port 52365 "
    "is taken: `ray start --head --dashboard-agent-listen-port=PORT`)"
)
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_STOPPED_STATUS = 130
_PAUSE_S = 1.0
_READY_S = 60.0
"""How long a head may be without the agent that starts jobs, which comes up a little after it."""
_ATTEMPTS = 60
"""How often in a row the server may be out of reach before following gives up."""


def open_client(address: str | None) -> Any:
    """A `JobSubmissionClient`; the token comes from where Ray itself looks for it.

    Raises:
        UserError: no job server there, or the token is missing or refused.
    """
    use_token()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    try:
        with _named(address):
            return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UserError(
            f"{where or 'this cluster'} refuses the token ({one_line(error)}); give it the cluster's: "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH=FILE or the file ~/.ray/auth_token"
        ) from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"no job server at {where or 'this machine'} ({one_line(error)}); "
            "give address=http://HOST:8265, or start one: `ray start --head`"
        ) from error


def use_token() -> None:
    """Use a token where there is one, as `ray start` does: before Ray is imported, which asks only once."""
    default = Path.home() / ".ray" / "auth_token"
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or default.is_file()
    if given:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def _named(address: str | None) -> Iterator[None]:
    """Let a given address win over those in the environment, which Ray takes first."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if address else ()
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def when_ready(call: Callable[[], Any]) -> Any:
    """`call()`, again while a server that has just started, or is very busy, says that it is not ready.

    Raises:
        UserError: it is not ready for long (1).
    """
    deadline, told = time.monotonic() + _READY_S, False
    while True:
        try:
            return call()
        except RuntimeError as error:
            if _NOT_READY not in str(error):
                raise
            if time.monotonic() >= deadline:
                raise UserError(_NO_AGENT, exit_code=1) from error
        if not told:
            click.echo("waiting for the head's job agent", err=True)
            told = True
        time.sleep(_PAUSE_S)


def follow(client: Any, job: str) -> int:
    """Show a job's output until it ends.

    Returns:
        The exit status of its program; 130 where it was stopped.

    Raises:
        UserError: the cluster is out of reach for long; the job may go on (1).
        KeyboardInterrupt: after telling how to go on: the job does not stop.
    """
    try:
        asyncio.run(_Output(client, job).show())
    except KeyboardInterrupt:
        click.echo(f"\njob {job} goes on\n{resume_hint(job)}", err=True)
        raise
    info = client.get_job_info(job)
    status = str(info.status)
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        click.echo(f"segray: job {job} was stopped", err=True)
        return _STOPPED_STATUS
    code = info.driver_exit_code
    said = f"status {code}" if code else " ".join((info.message or "no reason given").split())[:300]
    click.echo(f"segray: job {job} failed: {said}", err=True)
    return int(code or 1)


def resume_hint(job: str) -> str:
    """The commands that follow and that stop a job."""
    return f"  segray submit id={job}             follows it\n  segray submit id={job} stop=true   stops it"


class _Output:
    """A job's output on stdout, each character once, across connections that break."""

    def __init__(self, client: Any, job: str) -> None:
        self._client, self._job, self._shown = client, job, 0

    async def show(self) -> None:
        """Until the job has ended.

        Raises:
            UserError: the server is out of reach.
        """
        while not (await self._tail() and self._ended()):
            await asyncio.sleep(_PAUSE_S)

    async def _tail(self) -> bool:
        """One connection, in which the server starts from the beginning; whether it told all it has."""
        seen = 0
        try:
            async for text in self._client.tail_job_logs(self._job):
                fresh = text[max(0, self._shown - seen) :]
                seen += len(text)
                self._shown = max(self._shown, seen)
                click.echo(fresh, nl=False)
        except (RuntimeError, OSError):
            # Not for its answer: it raises where the server stays out of reach.
            self._ended()
            return False
        return True

    def _ended(self) -> bool:
        """Whether the job has ended, asked again and again while the server does not answer."""
        for _ in range(_ATTEMPTS):
            try:
                return str(self._client.get_job_status(self._job)) in _ENDED
            except (RuntimeError, OSError) as error:
                problem = error
                time.sleep(_PAUSE_S)
        raise UserError(
            f"the cluster is out of reach ({one_line(problem)}); job {self._job} may go on\n"
            f"{resume_hint(self._job)}",
            exit_code=1,
        )


def one_line(error: Exception) -> str:
    """The first line of an error, not too long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
