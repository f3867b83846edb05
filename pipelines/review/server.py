"""Listen and answer, in this thread or in one behind a notebook."""

from __future__ import annotations

import html
import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from segray.pipelines.errors import UserError
from segray.pipelines.review.app import build_app
from segray.pipelines.review.review import Review
from segray.pipelines.review.security import Door

_MAX_CONNECTIONS = 256


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: an address or a name of this machine.
        port: of TCP; 0: any free one.

    Raises:
        UserError: there is no such address here, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        hint = "; port=0 takes any free one" if port else ""
        raise UserError(f"cannot listen on host={host} port={port}: {error}{hint}") from error
    return listener


def make_server(app: ASGIApp) -> uvicorn.Server:
    """The server of an app, for `run(sockets=[...])`."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=True,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
        ws="none",
        lifespan="off",
    )
    return uvicorn.Server(config)


class ReviewPage:
    """The page of a label set; a context manager stops it.

    Args:
        review: the label set.
        door: who may talk to the page.
        listener: of `listen`.

    Attributes:
        url: what to open in a browser, with its token.
    """

    def __init__(self, review: Review, door: Door, listener: socket.socket) -> None:
        self.url = door.address
        self._review, self._listener = review, listener
        self._server = make_server(build_app(review, door))
        self._thread: threading.Thread | None = None

    def answer(self) -> None:
        """Answer requests until Ctrl-C, or `stop`."""
        self._review.start()
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self._review.stop()

    def start(self) -> None:
        """Answer requests in a thread, which ends with the process."""
        self._thread = threading.Thread(target=self.answer, name="segray-serve", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the page; what it confirmed is stored. Calling this again does nothing."""
        self._server.should_exit = True
        if self._thread:
            self._thread.join()
        self._listener.close()

    def __enter__(self) -> ReviewPage:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __str__(self) -> str:
        return self.url

    def _repr_html_(self) -> str:
        """The link that a notebook shows."""
        return f'<a href="{html.escape(self.url)}" target="_blank">{html.escape(self.url)}</a>'
