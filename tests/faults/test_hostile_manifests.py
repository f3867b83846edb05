"""Manifests that are made to harm, through the whole of `segray annotate`: no code, no request, no file."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.received import check_received_uri
from segray.pipelines.io.sources import read_allowed, read_image
from segray.pipelines.label_set.store import write_part
from tests.faults.runs import only_error, overrides, segray
from tests.pipelines.label_sets import ok_row, tables


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Address of a stranger's web server, and the first line and keys of each request that it gets."""
    seen: list[str] = []

    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.requestline} {self.headers.get('Authorization')}")
            self.send_error(404)

        do_HEAD = do_PUT = do_GET  # noqa: N815 (names of http.server)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAMINE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", seen
        server.shutdown()


def annotate(folder: Path, uri: str, *more: str) -> int:
    """Label the one image of a manifest in `folder`; the exit status."""
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image_id": ["a.png"], "uri": [uri]}), folder / "images.parquet")
    local = ("sam.workers=null", "rows_per_part=null")
    return segray("annotate", *overrides(folder / "images.parquet", folder / "out", *local, *more))


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    line = only_error(capsys)
    assert line.startswith("segray: manifest ")
    assert "row 1 (a.png): " in line
    assert "allowed: files below " in line
    assert "image.roots=FOLDER" in line
    return line


@pytest.mark.parametrize("prefix", ["reference://", "REFERENCE://x", "simplecache::reference://"])
def test_a_reference_file_system_in_a_manifest_runs_nothing(
    tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exploded = tmp_path / "exploded"
    code = f"cycler.__init__.__globals__.os.system('touch {exploded}')"
    generated = {"key": "{{" + code + "}}", "url": "x", "dimensions": {"i": [1]}}
    spec = {"version": 1, "gen": [generated], "refs": {}}
    (tmp_path / "evil.json").write_text(json.dumps(spec))
    assert annotate(tmp_path, f"{prefix}::file://{tmp_path}/evil.json") == 2
    assert "is a chain of file systems (::)" in only_line(capsys)
    assert not exploded.exists()


@pytest.mark.parametrize(
    "uri",
    [
        "http://{host}/a.png",
        "HTTP://{host}/a.png",
        "s3://bucket/a.png?endpoint_override={host}&scheme=http",
        "s3a://bucket/a.png?region=us-east-1&endpoint_override={host}&scheme=http",
        "s3://KEY:SECRET@bucket/a.png?scheme=http&endpoint_override={host}",
        "gs://bucket/a.png?endpoint_override={host}&scheme=http",
        "simplecache::http://{host}/a.png",
        "reference://::http://{host}/a.json",
    ],
)
def test_a_manifest_makes_no_request_to_a_host_of_its_choice(
    tmp_path: Path, requests: tuple[str, list[str]], uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host, seen = requests
    assert annotate(tmp_path, uri.format(host=host)) == 2
    assert "SECRET" not in only_line(capsys)
    assert not seen


@pytest.mark.parametrize(
    "uri",
    [
        "{outside}/secret.png",
        "file://{outside}/secret.png",
        "FILE://localhost{outside}/secret.png",
        "../outside/secret.png",
        "file://{inside}/%2e%2e/outside/secret.png",
        "/proc/self/cwd{outside}/secret.png",
        "/proc/self/environ",
    ],
)
def test_a_manifest_opens_no_file_outside_of_its_folder(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    Image.new("RGB", (32, 32)).save(outside / "secret.png")
    assert annotate(inside, uri.format(outside=outside, inside=inside)) == 2
    only_line(capsys)


def test_a_link_beside_a_manifest_leads_to_no_file_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "outside" / "secret.png")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "photos").symlink_to(tmp_path / "outside")
    assert annotate(tmp_path / "inside", "photos/secret.png") == 3
    assert "is a symlink that leaves the allowed folders" in capsys.readouterr().err


def test_one_key_allows_a_folder_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos" / "a.png")
    root = f"image.roots={tmp_path / 'photos'}"
    assert annotate(tmp_path / "inside", str(tmp_path / "photos" / "a.png"), root) == 0
    assert "1: 1 ok" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["tar=9999999999999999999+1", "zip=9999999999999999999+1+1+1", "zip=1+1"])
def test_a_part_beyond_the_end_of_any_file_is_a_bad_row(tmp_path: Path, part: str) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(ImageProblem, match="missing"):
        read_allowed(f"{tmp_path}/x.zip#{part}", [str(tmp_path)])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """In the place of a file of a received folder: reading it would never end."""

    def put(path: Path) -> None:
        path.unlink(missing_ok=True)
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")

    put(tmp_path / "a.parquet")
    with pytest.raises(ImageProblem, match="cannot be read"):
        read_image(f"{tmp_path}/a.parquet#parquet=0+0+0")
    write_part(str(tmp_path / "set"), *tables([ok_row("a")]))
    put(tmp_path / "set" / "manifest.parquet")
    assert segray("verify", f"out={tmp_path / 'set'}") == 1
    (part,) = (tmp_path / "set" / "labels").glob("part-*")
    put(part)
    for name in ("config.yaml", "run.json"):
        put(tmp_path / "set" / name)
    assert segray("verify", f"out={tmp_path / 'set'}", "repair=true") == 1
    assert segray("report", f"out={tmp_path / 'set'}") != 0
    put(tmp_path / "state.json")
    with pytest.raises(OSError, match="not a regular file"):
        storage.read_bytes(str(tmp_path / "state.json"))
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["//proc/self/environ", "file:////proc/self/environ", "///proc/self/environ"])
def test_two_slashes_lead_to_the_same_place(uri: str) -> None:
    with pytest.raises(UserError, match="is not below an allowed folder"):
        check_received_uri(uri, ["/"])
    assert check_received_uri("//images/a.png", ["/images"]) == "//images/a.png"
