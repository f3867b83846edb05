from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from tests.pipelines.object_stores import s3_server

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["local", "file", "memory", "flaky", "s3", "s3 with 503"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One folder on each kind of storage."""
    if request.param.startswith("s3"):
        yield from s3_server(monkeypatch, 10 if "503" in request.param else None)
    else:
        path = tmp_path / "a folder"
        schemes = {"local": str(path), "file": path.as_uri()}
        yield schemes.get(request.param, f"{request.param}:/{tmp_path}")


def test_every_storage_writes_reads_lists_and_deletes(folder: str) -> None:
    uri = storage.join(folder, "inner", "a b.bin")
    assert not storage.exists(uri)
    assert storage.list_names(storage.join(folder, "inner")) == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)
    for content in (b"old", b"new" * 100_000):
        storage.write_atomic(uri, content)
        assert storage.read_bytes(uri) == content
    storage.write_atomic(storage.join(folder, "inner", ".hidden"), b"")
    assert storage.list_names(storage.join(folder, "inner")) == [".hidden", "a b.bin"]
    assert storage.list_names(folder) == ["inner"]
    for _ in range(2):
        storage.delete(uri)
        assert not storage.exists(uri)


def test_a_503_one_time_in_ten_costs_no_file(tmp_path: Path) -> None:
    folder = f"flaky:/{tmp_path}"
    for number in range(40):
        storage.write_atomic(storage.join(folder, f"{number:02}"), bytes([number]))
    names = storage.list_names(folder)
    assert [storage.read_bytes(storage.join(folder, name)) for name in names] == [
        bytes([i]) for i in range(40)
    ]


@pytest.mark.parametrize("folder_uri", ["/nowhere", "memory://nowhere"])
def test_an_error_that_is_handled_keeps_nothing_of_a_failed_run_alive(folder_uri: str) -> None:
    """A circle of references would keep the run's frames, and in them its Ray actors, which hold CPUs."""

    class Actors:
        pass

    def fail() -> weakref.ref[Actors]:
        actors = Actors()
        try:
            raise RuntimeError
        except RuntimeError:
            storage.exists(storage.join(folder_uri, "x"))
        return weakref.ref(actors)

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_refused_access_is_not_tried_again() -> None:
    calls = []

    def refuse() -> None:
        calls.append(1)
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        storage.with_retries(refuse, "s3://bucket/x")
    assert len(calls) == 1


@pytest.mark.parametrize("code", [503, 404])
def test_a_client_with_its_own_exceptions_is_tried_again_only_for_passing_errors(code: int) -> None:
    class HttpError(Exception):
        def __init__(self) -> None:
            super().__init__("answer of the store")
            self.code = code

    calls: list[int] = []

    def fail_once() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise HttpError
        return "done"

    if code == 503:
        assert storage.with_retries(fail_once, "gs://bucket/x") == "done"
    else:
        with pytest.raises(OSError, match="answer of the store"):
            storage.with_retries(fail_once, "gs://bucket/x")


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("abc://x/y", "abc://x/y: unknown scheme abc://; allowed: a path, file://, s3://, gs://"),
        ("s3://", "s3://: no bucket; write s3://BUCKET/FOLDER"),
        (
            "abc://key:secret@x/y",
            r"abc://\*\*\*@x/y: passwords inside URIs are refused; set FSSPEC_ABC_PASSWORD",
        ),
        ("s3://KEY:secret@x/y", r"s3://\*\*\*@x/y: keys inside URIs are refused; set AWS_ACCESS_KEY_ID and"),
        ("s3://AKIA0123456789ABCDEF:sec/ret+01234567@x/y", r"^s3://\*\*\*@x/y: keys inside URIs are refused"),
        ("gs://token@x/y", r"gs://\*\*\*@x/y: keys inside URIs are refused; set GOOGLE_APPLICATION_CRED"),
        (
            "https://host/x?X-Amz-Signature=SECRET",
            r"^https://host/x\?X-Amz-Signature=\*\*\*.* signatures and keys inside URIs are refused",
        ),
        ("reference://::file:///x.json", "reference://::file:///x.json: chained URIs .* are refused"),
        ("simplecache::s3://b/x", "simplecache::s3://b/x: chained URIs .* are refused"),
        ("zip://a.png::/x.zip", "zip://a.png::/x.zip: chained URIs .* are refused"),
    ],
)
def test_bad_uris_are_refused_in_one_line(uri: str, text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        storage.open_storage(uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")])
def test_a_missing_client_is_named_with_the_extra_that_installs_it(
    scheme: str, package: str, extra: str
) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from segray.pipelines.io import storage\n"
        f"storage.open_storage('{scheme}://bucket/x')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60, capture_output=True, text=True
    )
    assert f"UserError: {scheme}://bucket/x: {scheme}:// needs {package}; " in done.stderr
    assert f"pip install 'segray[{extra}]'" in done.stderr


def test_options_of_an_s3_uri_reach_the_client() -> None:
    pytest.importorskip("s3fs")
    query = "?region=eu-west-1&endpoint_override=minio:9000&scheme=http"
    client, path = storage.open_storage(f"s3://bucket/100%25/x{query}")
    assert path == "bucket/100%25/x"
    assert not client.anon
    assert client.client_kwargs == {"endpoint_url": "http://minio:9000", "region_name": "eu-west-1"}
    assert storage.open_storage("s3://bucket/x?anonymous=true")[0].anon
    with pytest.raises(UserError, match=r"unknown option retry_\w+ \(allowed: region, endpoint_override"):
        storage.open_storage("s3://bucket/x?retry_attempts=3")


def test_local_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"12")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "set" / "file.png").symlink_to(tmp_path / "real" / "a.png")
    (tmp_path / "set" / "nothing.png").symlink_to(tmp_path / "gone")
    found = {(file.name, file.size) for file in storage.list_files(str(tmp_path / "set"))}
    assert found == {("folder/a.png", 2), ("file.png", 2)}


def test_files_below_a_folder_are_listed_on_every_storage(folder: str) -> None:
    for name in ("a.png", "deep/er/b c.png", "deep/.hidden"):
        storage.write_atomic(storage.join(folder, name), b"123")
    assert {(file.name, file.size) for file in storage.list_files(folder)} == {
        ("a.png", 3),
        ("deep/er/b c.png", 3),
        ("deep/.hidden", 3),
    }
    assert storage.list_files(storage.join(folder, "none")) == []
    assert storage.stat(storage.join(folder, "deep")) is None
    file = storage.stat(storage.join(folder, "a.png"))
    assert file is not None
    assert file.size == 3
    with pytest.raises(NotADirectoryError):
        storage.list_names(storage.join(folder, "a.png"))
    assert storage.list_names(storage.join(folder, "a.png", "below")) == []


def test_a_store_without_atomic_writes_is_refused() -> None:
    with pytest.raises(UserError, match="http:// has no atomic write; use a folder or an object store"):
        storage.write_atomic("http://localhost/x", b"")


@pytest.mark.parametrize(
    ("base", "joined"),
    [
        ("out", "out/a/b"),
        ("/out/", "/out/a/b"),
        ("/", "/a/b"),
        ("100%/what?", "100%/what?/a/b"),
        ("memory://", "memory://a/b"),
        ("s3://bucket/x", "s3://bucket/x/a/b"),
        ("s3://bucket/x?region=eu-west-1", "s3://bucket/x/a/b?region=eu-west-1"),
        ("s3://bucket/what?", "s3://bucket/what?/a/b"),
    ],
)
def test_join_keeps_options_at_the_end(base: str, joined: str) -> None:
    assert storage.join(base, "a", "b") == joined


def _run(code: str, *arguments: str) -> int:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode


KILLED_WRITER = """
import os, sys
from segray.pipelines.io import storage
os.fsync = lambda descriptor: os._exit(9)
storage.write_atomic(sys.argv[1], b"new")
"""

FULL_DISK = """
import resource, sys
from segray.pipelines.io import storage
from segray.pipelines.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    storage.write_atomic(sys.argv[1], b"new" * 1000)
except UserError as error:
    assert "cannot write " + sys.argv[1] + ": File too large; nothing was written" in str(error), error
    sys.exit(error.exit_code)
"""


def test_a_writer_killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    assert _run(KILLED_WRITER, str(target)) == 9
    assert target.read_bytes() == b"old"
    leftover = [name for name in storage.list_names(str(tmp_path)) if name != target.name]
    assert len(leftover) == 1
    assert storage.is_temporary(leftover[0])


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    assert _run(FULL_DISK, str(target)) == 1
    assert target.read_bytes() == b"old"
    assert storage.list_names(str(tmp_path)) == ["file.bin"]


def test_a_read_only_folder_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        with (
            _without_privileges(),
            pytest.raises(UserError, match=rf"cannot write {name}/x: Permission denied") as caught,
        ):
            storage.write_atomic(f"{name}/x", b"data")
        assert caught.value.exit_code == 2


class _without_privileges:  # noqa: N801 (used like a function)
    """Root may write anywhere; for this test it becomes a user who may not."""

    def __enter__(self) -> None:
        self.user = os.geteuid()
        if self.user == 0:
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        os.seteuid(self.user)
