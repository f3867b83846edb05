"""Lists and archives on object stores and web servers."""

from __future__ import annotations

import functools
import http.server
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.sources import follows_links, image_roots, list_images, read_allowed
from tests.pipelines.object_stores import FlakyFileSystem

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
def server(tmp_path: Path) -> Iterator[str]:
    """A web server of the files."""
    for name, data in {**CONTENTS, **FILES}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    handler = functools.partial(_Server, directory=str(tmp_path))
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
