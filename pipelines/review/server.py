"""Listen, say where, and stop at Ctrl-C."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from segray.pipelines.errors import UserError

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
