"""Object stores for tests: an fsspec one that fails now and then, and an S3 server on this machine."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from werkzeug.serving import make_server


class FlakyFileSystem(MemoryFileSystem):
    """A store in memory, `flaky://`, that answers every tenth call with 503."""

    protocol = "flaky"
    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012 (as in its base class: the files)
    pseudo_dirs = [""]  # noqa: RUF012
    calls = itertools.count(1)

    def _answer(self) -> None:
        if next(FlakyFileSystem.calls) % 10 == 0:
            raise OSError("503 Slow Down")

    def info(self, path: str, **options: Any) -> Any:
        self._answer()
        return super().info(path, **options)

    def isfile(self, path: str) -> bool:
        """As most stores do it, where a failing answer means no."""
        return bool(AbstractFileSystem.isfile(self, path))

    def isdir(self, path: str) -> bool:
        return bool(AbstractFileSystem.isdir(self, path))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._answer()
        return super().ls(path, detail=detail, **options)

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        self._answer()
        return super()._open(path, *arguments, **options)

    def pipe_file(self, path: str, value: bytes, **options: Any) -> Any:
        self._answer()
        return super().pipe_file(path, value, **options)

    def rm_file(self, path: str) -> None:
        self._answer()
        super().rm_file(path)


fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)


def _failing(app: Any, share: int | None) -> Callable[[Any, Any], Any]:
    """The WSGI application, answering each `share`-th request with 503; None: never.

    One request at a time: S3 decides a conditional PUT atomically, moto looks first and then writes.
    """
    requests, one = itertools.count(1), threading.Lock()

    def answer(environ: Any, start_response: Any) -> Any:
        if share is not None and next(requests) % share == 0:
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        with one:
            return app(environ, start_response)

    return answer


def s3_server(monkeypatch: pytest.MonkeyPatch, share: int | None = None) -> Iterator[str]:
    """Run an S3 server with the bucket `bucket`; yields the URI of an empty folder in it."""
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    app = moto.DomainDispatcherApplication(moto.create_backend_app)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, _failing(app, share), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    for key, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(key, value)
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield f"s3://bucket/{secrets.token_hex(4)}/label sets/100%?"
    server.shutdown()
    thread.join()
