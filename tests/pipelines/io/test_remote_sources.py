"""Lists and archives on object stores and web servers."""

from __future__ import annotations

import functools
import http.server
import io
import json
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.sources import follows_links, image_roots, list_images, read_allowed
from tests.https_server import served
from tests.pipelines.object_stores import FlakyFileSystem, s3_server
from tests.processes import REPOSITORY

FILES = {"a/1.png": b"one" * 500, "b/2.jpg": b"two" * 900}


def opened(spec: str, *also: str) -> dict[str, bytes]:
    roots, follow = image_roots(spec, also), follows_links(spec, True)
    refs = list_images(spec, also)
    return {ref.image_id: read_allowed(ref.uri, roots, follow=follow) for ref in refs}


def tar_bytes() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def zip_bytes() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return sink.getvalue()


def table_bytes() -> bytes:
    sink = io.BytesIO()
    rows = [{"bytes": data, "path": name} for name, data in FILES.items()]
    pq.write_table(pa.table({"image": rows}), sink)
    return sink.getvalue()


CONTENTS = {"x.tar": tar_bytes(), "x.zip": zip_bytes(), "x.parquet": table_bytes()}


@pytest.fixture
def store() -> Iterator[str]:
    """A store that fails one time in ten."""
    FlakyFileSystem.store.clear()
    for name, data in {**CONTENTS, **FILES}.items():
        storage.write_atomic(f"flaky://bucket/{name}", data)
    yield "flaky://bucket"
    FlakyFileSystem.store.clear()


@pytest.mark.parametrize("name", [*CONTENTS, "*.tar", "x*.zip"])
def test_archives_on_a_store_that_fails_now_and_then(store: str, name: str) -> None:
    assert opened(f"{store}/{name}") == FILES


def test_a_list_on_a_store_names_what_is_beside_it(store: str) -> None:
    text = "a/1.png\nflaky://bucket/b/2.jpg\n"
    storage.write_atomic(f"{store}/list.txt", text.encode())
    assert opened(f"{store}/list.txt") == FILES
    storage.write_atomic(f"{store}/list.txt", b"flaky://other/1.png\n")
    with pytest.raises(UserError, match=r"line 1: flaky://other/1\.png is not below an allowed folder"):
        list(list_images(f"{store}/list.txt"))


class _Server(http.server.SimpleHTTPRequestHandler):
    """Answers requests of ranges, as the hosts of large files do."""

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if match is None:
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        start, end = int(match[1]), min(int(match[2]) + 1, len(data))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(data[start:end])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files, to be served."""
    for name, data in {**CONTENTS, **FILES}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """A web server of the files."""
    handler = functools.partial(_Server, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{web.server_address[1]}"
        web.shutdown()
        thread.join()


def test_a_list_of_addresses_on_a_host_that_the_user_named(server: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{server}/a/1.png\n{server}/b/2.jpg\n")
    assert opened(str(tmp_path / "list.txt"), server) == FILES
    assert opened(f"{server}/list.txt") == FILES
    with pytest.raises(UserError, match="has the scheme http://"):
        list(list_images(str(tmp_path / "list.txt")))


@pytest.mark.parametrize("name", CONTENTS)
def test_archives_on_a_web_server(server: str, name: str) -> None:
    assert opened(f"{server}/{name}") == FILES


_CLIENT = """
import json, sys
from tests.pipelines.io.test_remote_sources import opened
for source in json.loads(sys.argv[1]):
    print(json.dumps({name: len(data) for name, data in opened(*source).items()}))
"""


def _read_elsewhere(*sources: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """In a new process, as a client reads the certificates that it trusts once."""
    command = [sys.executable, "-c", _CLIENT, json.dumps(sources)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)


@pytest.mark.slow
def test_a_list_of_addresses_over_tls(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(_Server):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, directory=str(folder), **named)

    sizes = {name: len(data) for name, data in FILES.items()}
    with served(Handler, tmp_path, monkeypatch) as address:
        (folder / "list.txt").write_text("".join(f"{address}/{name}\n" for name in FILES))
        sources = [(str(folder / "list.txt"), address), (f"{address}/list.txt",), (f"{address}/x.tar",)]
        done = _read_elsewhere(*sources)
        assert [json.loads(line) for line in done.stdout.splitlines()] == [sizes] * 3, done.stderr
        monkeypatch.delenv("SSL_CERT_FILE")
        assert "certificate" in _read_elsewhere((f"{address}/list.txt",)).stderr.lower()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder of S3 with the files."""
    for folder in s3_server(monkeypatch):
        for name, data in {**CONTENTS, **FILES}.items():
            storage.write_atomic(storage.join(folder, *name.split("/")), data)
        yield folder


@pytest.mark.parametrize("name", ["x.tar", "x.zip", "x.parquet", "*.tar"])
def test_archives_on_s3(bucket: str, name: str) -> None:
    assert opened(storage.join(bucket, name)) == FILES


def test_shards_of_webdataset_and_a_list_on_s3(bucket: str) -> None:
    names = list(FILES)
    for number, name in enumerate(names):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as archive:
            for member, data in ((name, FILES[name]), (f"{name.rpartition('.')[0]}.json", b"{}")):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        storage.write_atomic(storage.join(bucket, f"shard-{number:06d}.tar"), sink.getvalue())
    assert opened(storage.join(bucket, "shard-{000000..000001}.tar")) == FILES
    storage.write_atomic(storage.join(bucket, "list.csv"), "\n".join(["path", *names]).encode())
    assert opened(storage.join(bucket, "list.csv")) == FILES
