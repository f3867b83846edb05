"""What a Ray dashboard answers, which may be anything: read with limits, and without redirects."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from aiohttp import TraceConfig

T = TypeVar("T")

MAX_BYTES = 16 << 20
"""Of an answer about a job; Ray's are some kilobytes."""
UNUSABLE = (RuntimeError, OSError, ValueError, TypeError, LookupError, AttributeError)
"""What Ray's client raises if a server refuses, is gone, or answers something else."""

_VERBOSE_LOGGERS = (
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)
_STATUS_S = 10.0
_CONNECT_S = 10.0
_ANSWER_S = 60.0
"""For a whole answer, from the request on."""
_WORK_S = 300.0
"""The same where the head does something first: it stores an upload, or starts a job."""
_UPLOAD_BYTES_S = 100_000
"""What a slow connection sends: an upload has the time for it besides `_WORK_S`."""
_LINE = 256
_PIECE = 1 << 16
_STATUS = re.compile(rb"HTTP/\d\.\d (\d{3})(?:\s|$)")


class TokenRefusedError(ConnectionError):
    """The token is missing, or another one than the cluster's."""


class NoAnswerError(Exception):
    """Somebody listens, and does not answer as Ray's dashboard does; its text says what happens instead."""


class UnansweredPostError(ConnectionError):
    """No answer in time, and what was asked for may be done all the same: a job may have been started."""


def status_without_token(dashboard: str) -> int | None:
    """The status of a request without a token.

    Only the first line of the answer is read, from the dashboard itself: neither a redirect nor a proxy of
    the environment answers for it.

    Args:
        dashboard: HOST:PORT.

    Returns:
        HTTP's status; None if nobody can be reached.

    Raises:
        NoAnswerError: no line of HTTP within some seconds.
    """
    try:
        place = urlsplit(f"//{dashboard}")
        host, port = place.hostname, place.port or 80
        connection = socket.create_connection((host, port), _STATUS_S) if host else None
    except (OSError, ValueError):
        connection = None
    if connection is None:
        return None
    with connection:
        line = _first_line(connection, f"GET /api/version HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n")
    if found := _STATUS.match(line):
        return int(found[1])
    raise NoAnswerError(
        f"it answers {line[:40].decode(errors='replace')!r}" if line else "it answers nothing"
    )


def _first_line(connection: socket.socket, request: str) -> bytes:
    deadline, line = time.monotonic() + _STATUS_S, b""
    try:
        connection.sendall(request.encode())
        while b"\n" not in line and len(line) < _LINE:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            if not (more := connection.recv(_LINE - len(line))):
                break
            line += more
    except TimeoutError:
        raise NoAnswerError(f"no answer within {_STATUS_S:g} s") from None
    except OSError as error:
        raise NoAnswerError(error.strerror or str(error)) from None
    return line.partition(b"\n")[0]


def reason(error: Exception) -> str:
    """One line on an exception of `UNUSABLE`, at most 300 characters."""
    if isinstance(error, (json.JSONDecodeError, TypeError, LookupError, AttributeError)):
        return "its answer is not that of Ray's dashboard"
    return one_line(error)


def one_line(error: Exception) -> str:
    """The first line of an error, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def limited_client(address: str | None) -> Any:
    """Ray's `JobSubmissionClient`, which by itself reads any amount, and takes the job's code to a redirect.

    Args:
        address: as Ray takes it.

    Raises:
        TokenRefusedError: as its text says; so do the client's methods.
        Exception: others of `UNUSABLE`; so do the client's methods.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # Once these are imported, which sets their levels.
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)

    class LimitedClient(JobSubmissionClient):
        """Ray has no option for it; its one function for requests passes what it is given to `requests`."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            seconds = _ANSWER_S if method == "GET" else _WORK_S
            if data := options.get("data"):
                seconds += len(data) // _UPLOAD_BYTES_S
                # In pieces: bytes would have to be sent whole within the time to connect.
                options["data"] = io.BytesIO(data)
            limits = {
                "allow_redirects": False,
                # Later than the limit below, which says more.
                "timeout": (_CONNECT_S, seconds + _CONNECT_S),
                "hooks": {"response": _limited},
            }
            request = super()._do_request
            ask = partial(request, method, endpoint, stream=True, **limits, **options)
            try:
                return _within(seconds, ask, UnansweredPostError if method == "POST" else ConnectionError)
            except AuthenticationError as error:
                raise TokenRefusedError(one_line(error)) from error

        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            """Ray's own follows redirects to any host, also to one that only this machine reaches."""
            place = f"{self._address}/api/jobs/{job_id}/logs/tail"
            async for text in _texts(place, self._ssl_context, cookies=self._cookies, headers=self._headers):
                yield text

    return LimitedClient(address)


async def _texts(place: str, ssl: Any, **options: Any) -> AsyncIterator[str]:
    """The texts of a websocket until it is closed.

    Args:
        place: its address.
        ssl: as of `aiohttp`.
        options: of `aiohttp.ClientSession`.

    Raises:
        ConnectionError: the connection breaks, or leads elsewhere.
        aiohttp.ClientError: there is no websocket.
    """
    from aiohttp import ClientSession, WSCloseCode, WSMsgType

    async with (
        ClientSession(trace_configs=[_without_redirects()], **options) as session,
        session.ws_connect(place, ssl=ssl) as messages,
    ):
        async for message in messages:
            if message.type == WSMsgType.ERROR:
                raise ConnectionError(f"the connection breaks: {messages.exception()}")
            if message.type == WSMsgType.TEXT:
                yield message.data
        if messages.close_code == WSCloseCode.ABNORMAL_CLOSURE:
            raise ConnectionError("the connection breaks")


def _without_redirects() -> TraceConfig:
    """`ws_connect` has no option against them; what is raised here ends the request before the next one."""
    from aiohttp import TraceConfig

    async def refuse(_session: object, _context: object, redirect: Any) -> None:
        raise _elsewhere(redirect.response)

    trace = TraceConfig()
    trace.on_request_redirect.append(refuse)
    return trace


def _elsewhere(response: Any) -> ConnectionError:
    place = str(response.headers.get("Location"))[:200]
    return ConnectionError(f"it redirects to {place}; give that address itself")


def _within(seconds: float, ask: Callable[[], T], late: type[ConnectionError]) -> T:
    """What `ask` returns; the time limit of a socket starts again with each byte that it gets.

    Raises:
        ConnectionError: `late`, if it does not return in time.
    """
    try:
        return in_thread(ask).result(seconds)
    except TimeoutError:
        raise late(f"no whole answer within {seconds:g} s") from None


def in_thread(ask: Callable[[], T]) -> Future[T]:
    """What `ask` will return; neither Ctrl-C nor the end of this process waits for its thread."""
    answer: Future[T] = Future()
    # From here on nobody can cancel it, which would make the thread fail once it has the answer.
    answer.set_running_or_notify_cancel()

    def work() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:  # noqa: BLE001  raised by the caller
            answer.set_exception(error)

    threading.Thread(target=work, name="segray-ask", daemon=True).start()
    return answer


def _limited(response: Any, *_: object, **__: object) -> None:
    """Read an answer of `requests` before it does.

    Raises:
        ConnectionError: it is too long, breaks off, or leads elsewhere.
    """
    with closing(response.raw) as answer:
        if response.is_redirect:
            raise _elsewhere(response)
        whole = _whole(answer)
    response.raw = io.BytesIO(whole)


def _whole(answer: Any) -> bytes:
    from urllib3.exceptions import HTTPError

    data = bytearray()
    try:
        for piece in answer.stream(_PIECE, decode_content=True):
            data += piece
            if len(data) > MAX_BYTES:
                raise ConnectionError(f"its answer is longer than {MAX_BYTES >> 20} MB")
    except HTTPError as error:
        raise ConnectionError(f"its answer breaks off: {one_line(error)}") from None
    return bytes(data)
