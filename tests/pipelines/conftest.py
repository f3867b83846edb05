"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from tests.pipelines.object_stores import s3_server
from tests.pipelines.ray_heads import Head, head_with_token


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A running head that asks for its token, for all tests of a process."""
    with head_with_token() as head:
        yield head


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """An S3 server's empty folder, and options for workers that were started without its address."""
    for _ in s3_server(monkeypatch):
        server = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        # The server's objects outlive it, in this process.
        folder = f"s3://bucket/a folder/{secrets.token_hex(4)}"
        yield folder, f"?scheme=http&region=us-east-1&endpoint_override={server}"
