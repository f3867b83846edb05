"""Dashboards that answer anything but what Ray's answers."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from aiohttp import web

from segray.pipelines.commands import doctor
from segray.pipelines.engine import dashboard
from segray.pipelines.engine.jobs import open_client
from segray.pipelines.errors import UserError
from tests.https_server import running

ENDLESS = itertools.repeat(bytes(1 << 16))


@contextmanager
def answering(*pieces: bytes, then: Iterable[bytes] = (), silent: bool = False) -> Iterator[str]:
    """A server that answers each request with these bytes; yields its HOST:PORT."""
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        # Nobody is there any more, or the test is over.
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    if silent:
                        done.wait()
                    connection.recv(1 << 16)
                    for piece in itertools.chain(pieces, then):
                        connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        done.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def http(status: str, body: bytes, *headers: str) -> bytes:
    """An answer of HTTP."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "it answers nothing"),
        (b"SSH-2.0-x\r\n", "it answers 'SSH-2.0-x\\r'"),
        (b"\x1b]0;x\x07" * 999, "it answers '\\x1b]0;x\\x07"),
        (http("302 Found", b"", "Location: http://127.0.0.1:9/"), "it answers with HTTP status 302"),
        (http("500 x", b"<html>"), "it answers with HTTP status 500"),
    ],
)
def test_a_dashboard_that_answers_garbage_is_a_line_of_doctor(answer: bytes, problem: str) -> None:
    with answering(answer) as place:
        found = doctor._authentication(False, place)
    assert not found.ok
    assert found.detail.startswith(f"{place} does not answer as Ray's dashboard does ({problem}")
    assert len(found.detail) < 400


def test_an_endless_and_a_silent_answer_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(then=ENDLESS) as place, pytest.raises(dashboard.NoAnswerError, match="it answers"):
        dashboard.status_without_token(place)
    monkeypatch.setattr(dashboard, "_STATUS_S", 0.05)
    with answering(silent=True) as place, pytest.raises(dashboard.NoAnswerError, match=r"within 0\.05 s"):
        dashboard.status_without_token(place)


def test_the_status_is_that_of_the_first_line() -> None:
    for status in (200, 401, 403):
        with answering(http(f"{status} x", b"{")) as place:
            assert dashboard.status_without_token(place) == status
    assert doctor._authentication(False, place).ok
    assert dashboard.status_without_token(place) is None
    assert dashboard.status_without_token("") is None


VERSION = "no job server at http://{} ({}); give address=http://HOST:8265"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (http("200 OK", b"<html>"), "its answer is not that of Ray's dashboard"),
        (http("200 OK", b"[]"), "its answer is not that of Ray's dashboard"),
        (http("200 OK", b"{}"), "its answer is not that of Ray's dashboard"),
        (http("200 OK", b'{"ray_version": "\x1b[2J"}'), "its answer is not that of Ray's dashboard"),
        (http("200 OK", json.dumps({"ray_version": "x" * 5000}).encode()), "Invalid version: 'xxx"),
        (b"\xff\xfe", "Failed to connect to Ray at address"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "its answer breaks off"),
        (http("307 x", b"", "Location: http://192.0.2.1/"), "it redirects to http://192.0.2.1/"),
    ],
)
def test_a_job_server_that_answers_garbage_is_one_line(answer: bytes, problem: str) -> None:
    with answering(answer) as place, pytest.raises(UserError) as caught:
        open_client(f"http://{place}")
    line = str(caught.value)
    assert line.startswith(VERSION.format(place, problem).partition(");")[0])
    assert "\n" not in line
    assert len(line) < 600


def test_an_endless_answer_of_a_job_server_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "MAX_BYTES", 1 << 20)
    endless = b"HTTP/1.1 200 OK\r\n\r\n"
    with answering(endless, then=ENDLESS) as place, pytest.raises(UserError, match="longer than 1 MB"):
        open_client(f"http://{place}")


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_of_a_job_server_that_drips_is_given_up(
    begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte starts the time limit of a socket again: one in 9 s held the command for days."""
    monkeypatch.setattr(dashboard, "_ANSWER_S", 0.2)
    over = threading.Event()
    drops = (b"x" for _ in range(300) if not over.wait(0.01))
    with answering(begin, then=drops) as place, ExitStack() as stack:
        stack.callback(over.set)
        with pytest.raises(UserError, match=r"no whole answer within 0\.2 s"):
            open_client(f"http://{place}")


class Head(BaseHTTPRequestHandler):
    """A job server that takes an upload slowly, and does not answer a POST before the test is over."""

    over: ClassVar[threading.Event]

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        for _ in range(int(self.headers["Content-Length"]) >> 20):
            self.rfile.read(1 << 20)
            time.sleep(0.2)
        self._answer()

    def do_POST(self) -> None:
        self.over.wait()

    def _answer(self) -> None:
        self.wfile.write(http("200 OK", b'{"ray_version": "2.60.0"}'))

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def slow_head(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve it; yields its address."""
    over = threading.Event()
    monkeypatch.setattr(Head, "over", over, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Head) as server:
        server.daemon_threads = True
        # What is sent has to wait until it is read.
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        with running(server), ExitStack() as stack:
            stack.callback(over.set)
            yield f"http://127.0.0.1:{server.server_port}"


def test_an_upload_has_the_time_that_its_bytes_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 2.4 s: longer than a connection may take, and than the head may work."""
    monkeypatch.setattr(dashboard, "_CONNECT_S", 1.0)
    monkeypatch.setattr(dashboard, "_WORK_S", 0.5)
    monkeypatch.setattr(dashboard, "_UPLOAD_BYTES_S", 1 << 20)
    with slow_head(monkeypatch) as place:
        client: Any = open_client(place)
        answer = client._do_request("PUT", "/api/packages/gcs/x.zip", data=bytes(12 << 20))
    assert answer.status_code == 200


def test_a_post_without_an_answer_may_have_been_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "_WORK_S", 0.2)
    with slow_head(monkeypatch) as place:
        client: Any = open_client(place)
        with pytest.raises(dashboard.UnansweredPostError, match=r"no whole answer within 0\.2 s"):
            client._do_request("POST", "/api/jobs/", json_data={})


@asynccontextmanager
async def head_with_output(target: str = "") -> AsyncIterator[tuple[str, list[str]]]:
    """A job server whose jobs print "a" and "b", or lead to a target; its address, and what it was asked."""
    seen: list[str] = []

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"ray_version": "2.60.0"})

    async def output(request: web.Request) -> web.StreamResponse:
        seen.append(request.path)
        if target:
            raise web.HTTPFound(target)
        messages = web.WebSocketResponse()
        await messages.prepare(request)
        for text in "ab":
            await messages.send_str(text)
        if request.path.startswith("/api/jobs/broken"):
            assert request.transport is not None
            request.transport.abort()
        return messages

    app = web.Application()
    app.add_routes([web.get("/api/version", version), web.get("/{path:.*}", output)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


async def tail(place: str, job: str) -> list[str]:
    """The output of a job."""
    client = await asyncio.to_thread(open_client, place)
    return [text async for text in client.tail_job_logs(job)]


def test_the_output_of_a_job_is_read_from_its_server_alone() -> None:
    async def follow() -> None:
        async with head_with_output() as (other, seen):
            assert await tail(other, "j") == ["a", "b"]
            for target in (f"{other}/secret", f"{other.replace('http', 'ws')}/secret", "/elsewhere"):
                async with head_with_output(target) as (place, asked):
                    with pytest.raises(ConnectionError, match=f"it redirects to {target}; give that"):
                        await tail(place, "j")
            assert asked == seen == ["/api/jobs/j/logs/tail"]

    asyncio.run(follow())


def test_output_that_breaks_off_is_no_end() -> None:
    async def follow() -> None:
        async with head_with_output() as (place, _):
            with pytest.raises(ConnectionError, match="the connection breaks"):
                await tail(place, "broken")

    asyncio.run(follow())
