"""The client of a Ray cluster's job server: connect, and follow a job until it ends."""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from segray.pipelines.engine.auth_token import use_token
from segray.pipelines.engine.dashboard import UNUSABLE, TokenRefusedError, in_thread, limited_client, reason
from segray.pipelines.engine.reachable import require_listener
from segray.pipelines.errors import UserError
from segray.pipelines.printing import echo

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")

_NOT_READY = "No available agent"
_NO_AGENT = (
    "the cluster refused the job: the head has no job agent; see its dashboard_agent.log (if port 52365 is "
    "in use: `ray start --head --dashboard-agent-listen-port=PORT`)"
)
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_STOPPED_STATUS = 130
_PAUSE_S = 1.0
_READY_S = 60.0
"""How long to wait for the agent that starts jobs, which comes up a little after the head."""
_ATTEMPTS = 60
"""Failed connections for the output of a job that has ended, after which the rest of it is given up."""
_SILENCE_S = 10.0
"""Of a job's output, after which its status is asked: a job that runs may print nothing for hours."""
_SILENCE_FAILURES = int(_SILENCE_S / _PAUSE_S)
"""A silent connection costs the time of so many that fail at once."""
_ASK_S = 60.0
"""Between requests for the status while text arrives: it may arrive for ever."""
_REST_S = 600.0
"""For all output that is still to come once the job is known to have ended."""
_LOST_S = 180.0
"""Without a status, after which the cluster is given up; a request under way is waited for besides."""
_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")
"""A progress bar is a line each time that it is drawn."""
_LONGEST = 1 << 16
"""Characters that are printed as a line although it has not ended."""


class JobInfo(Protocol):
    """What Ray knows about a job."""

    @property
    def status(self) -> object:
        """SUCCEEDED, FAILED, STOPPED, PENDING or RUNNING, as text."""

    @property
    def message(self) -> str | None:
        """The reason for the status."""

    @property
    def driver_exit_code(self) -> int | None:
        """The exit status of the job's process, once it has ended."""


class JobServer(Protocol):
    """The part of Ray's `JobSubmissionClient` that following a job needs."""

    def tail_job_logs(self, job_id: str, /) -> AsyncIterator[str]:
        """The output of a job from its beginning, as it arrives."""

    def get_job_status(self, job_id: str, /) -> object:
        """The status of a job; its text is that of `JobInfo.status`."""

    def get_job_info(self, job_id: str, /) -> JobInfo:
        """Status, message and exit status of a job."""


def open_client(address: str | None) -> JobSubmissionClient:
    """Connect to a job server; the token comes from where Ray itself looks for it.

    Raises:
        UserError: no job server at the address, or the token is missing or refused.
    """
    use_token()
    server = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    require_listener(address, ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    try:
        with _without_ray_address(address):
            return limited_client(address)
    except TokenRefusedError as error:
        raise UserError(
            f"{server or 'this cluster'} refuses the token ({reason(error)}); give the token of the "
            "cluster: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH=FILE or ~/.ray/auth_token"
        ) from error
    except UNUSABLE as error:
        raise UserError(
            f"no job server at {server or 'this machine'} ({reason(error)}); "
            "give address=http://HOST:8265, or start one: `ray start --head`"
        ) from error


@contextmanager
def _without_ray_address(address: str | None) -> Iterator[None]:
    """Hide the addresses in the environment, which Ray prefers, if there is an explicit address."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if address else ()
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def when_ready(call: Callable[[], T]) -> T:
    """`call()`, repeated while a server that has just started, or is very busy, is not ready.

    Raises:
        UserError: it is still not ready after a minute (1).
    """
    deadline, announced = time.monotonic() + _READY_S, False
    while True:
        try:
            return call()
        except RuntimeError as error:
            if _NOT_READY not in str(error):
                raise
            if time.monotonic() >= deadline:
                raise UserError(_NO_AGENT, exit_code=1) from error
        if not announced:
            echo("waiting for the head's job agent", err=True)
            announced = True
        time.sleep(_PAUSE_S)


def follow(client: JobServer, job: str) -> int:
    """Show the output of a job until it ends.

    Returns:
        The exit status of the job; 130 if it was stopped.

    Raises:
        UserError: the cluster cannot be reached; the job may still be running (1).
        KeyboardInterrupt: the user stopped following; the job continues.
    """
    try:
        asyncio.run(_Output(client, job).show())
    except KeyboardInterrupt:
        echo(f"\njob {job} is still running\n{resume_hint(job)}", err=True)
        raise
    try:
        info = client.get_job_info(job)
    except UNUSABLE as error:
        raise _lost(job, error) from error
    status = str(info.status)
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        echo(f"segray: job {job} was stopped", err=True)
        return _STOPPED_STATUS
    code = info.driver_exit_code
    reason = f"status {code}" if code else " ".join((info.message or "no reason given").split())[:300]
    echo(f"segray: job {job} failed: {reason}", err=True)
    return int(code or 1)


def resume_hint(job: str) -> str:
    """The commands that follow and stop a job."""
    return f"  segray submit id={job}             follows it\n  segray submit id={job} stop=true   stops it"


def _lost(job: str, error: Exception) -> UserError:
    """The cluster cannot be reached."""
    problem = f"cannot reach the cluster ({reason(error)}); job {job} may still be running"
    return UserError(f"{problem}\n{resume_hint(job)}", exit_code=1)


class _Output:
    """The output of a job on stdout, each character once, even if connections break."""

    def __init__(self, client: JobServer, job: str) -> None:
        self._client, self._job, self._shown, self._rest = client, job, 0, ""
        self._shown_before, self._ask_at, self._until = 0, 0.0, math.inf

    async def show(self) -> None:
        """Show the output until the job has ended, and after that no longer than its server is of use.

        Raises:
            UserError: the server cannot be reached.
        """
        try:
            whole = await self._read_all()
        finally:
            echo(self._rest.rstrip("\r"), nl=False)
        if not whole:
            echo("the rest of its output cannot be read", err=True)

    async def _read_all(self) -> bool:
        """Whether all could be read; if not, the job has ended, and connections failed or lasted too long."""
        failures = 0
        while failures < _ATTEMPTS and time.monotonic() < self._until:
            new = await self._read_once()
            if not await self._ended():
                failures = 0
            elif not new:
                return True
            else:
                failures += new
            await asyncio.sleep(_PAUSE_S)
        return False

    async def _read_once(self) -> int:
        """Read one connection, in which the server starts from the beginning.

        Returns:
            The failures that it counts as; 0: it was complete.

        Raises:
            UserError: the server cannot be reached.
        """
        reading = asyncio.ensure_future(self._read())
        while not (await asyncio.wait([reading], timeout=_SILENCE_S))[0]:
            # What ends meanwhile cannot be cancelled, and is no failure.
            if await self._is_useless() and reading.cancel():
                return _SILENCE_FAILURES
        return 0 if await reading else 1

    async def _is_useless(self) -> bool:
        """Whether the job has ended, and the open connection is silent or has lasted too long since."""
        # Neither empty text nor text that was shown already is a sign of life.
        before, self._shown_before = self._shown_before, self._shown
        if self._shown > before and time.monotonic() < self._ask_at:
            return False
        if not await self._ended():
            return False
        return self._shown == before or time.monotonic() >= self._until

    async def _read(self) -> bool:
        seen = 0
        try:
            async for text in self._client.tail_job_logs(self._job):
                fresh = text[max(0, self._shown - seen) :]
                seen += len(text)
                self._shown = max(self._shown, seen)
                self._print(fresh)
        except Exception:  # noqa: BLE001  whatever a server answers, the status tells whether to go on
            return False
        return True

    def _print(self, text: str) -> None:
        """Print whole lines: an escape sequence or a key may lie across two pieces."""
        *lines, self._rest = _LINE_END.split(self._rest + text)
        while len(self._rest) > _LONGEST:
            lines.append(self._rest[:_LONGEST])
            self._rest = self._rest[_LONGEST:]
        for line in lines:
            echo(line)

    async def _ended(self) -> bool:
        """Whether the job has ended; repeats the request while the server does not answer.

        Raises:
            UserError: it has not answered for minutes.
        """
        deadline = time.monotonic() + _LOST_S
        while self._until == math.inf:
            try:
                status = await self._status()
            except UNUSABLE as error:
                if time.monotonic() >= deadline:
                    raise _lost(self._job, error) from error
                await asyncio.sleep(_PAUSE_S)
                continue
            self._ask_at = time.monotonic() + _ASK_S
            if status not in _ENDED:
                return False
            self._until = time.monotonic() + _REST_S
        return True

    async def _status(self) -> str:
        """The status of the job; it is waited for in a thread, so that Ctrl-C is heard meanwhile."""
        ask = partial(self._client.get_job_status, self._job)
        return str(await asyncio.wrap_future(in_thread(ask)))
