"""Weights and checkpoints that are made to harm, and servers that send them."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import resource
import threading
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from huggingface_hub import constants

from segray.models import downloads
from segray.models.weights import (
    Checkpoint,
    UnavailableError,
    WeightsError,
    load_state_dict,
    parse_hub,
    read_card,
    resolve,
)
from segray.pipelines.errors import UserError
from segray.pipelines.training import checkpoints
from segray.pipelines.training.checkpoints import check_weights, load_checkpoint, load_optimiser
from tests.https_server import served

CONTENT = b"weights" * 1000


class Redirecting(http.server.BaseHTTPRequestHandler):
    """/go leads to `target`; /big tells `length`, or none, and sends twice the limit."""

    target: ClassVar[str] = ""
    length: ClassVar[str | None] = None
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path == "/go":
            self.send_response(302)
            self.send_header("Location", self.target)
            self.end_headers()
            return
        self.send_response(200)
        if self.length is not None:
            self.send_header("Content-Length", self.length)
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://127.0.0.1:{port}/w.pth", "http:// is not encrypted"),
        ("https://localhost:{port}/w.pth", "the host 'localhost', which is not allowed"),
        ("https://huggingface.co.evil.example/w.pth", "the host 'huggingface.co.evil.example'"),
        ("https://huggingface.co@localhost:{port}/w.pth", "the host 'localhost'"),
        ("https://169.254.169.254/latest/meta-data/", "the host '169.254.169.254'"),
        ("ftp://127.0.0.1/w.pth", "ftp"),
        ("file:///etc/passwd", "file"),
        ("data:text/plain,x", "data"),
    ],
)
def test_a_redirect_to_another_host_or_without_encryption_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, why: str
) -> None:
    handler = type("Handler", (Redirecting,), {"seen": []})
    with served(handler, tmp_path, monkeypatch) as address:
        port = address.rpartition(":")[2]
        handler.target = target.format(port=port)  # type: ignore[attr-defined]
        with pytest.raises(UnavailableError, match=why):
            resolve(f"{address}/go", cache_dir=tmp_path / "cache")
    assert handler.seen == ["/go"]  # type: ignore[attr-defined]
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_user_may_allow_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = type("Handler", (Redirecting,), {"seen": []})
    monkeypatch.setenv("SEGRAY_WEIGHT_HOSTS", "mirror.example, localhost")
    with served(handler, tmp_path, monkeypatch) as address:
        handler.target = address.replace("127.0.0.1", "localhost") + "/w.pth"  # type: ignore[attr-defined]
        found = resolve(f"{address}/go", cache_dir=tmp_path / "cache")
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(
    ("length", "why"),
    [
        (None, "more than 5000 bytes, which is the limit"),
        (str(len(CONTENT)), "it has 7000 bytes"),
        ("-1", "tells a length of '-1'"),
        ("9" * 5000, "tells a length of '999"),
    ],
)
def test_a_download_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: str | None, why: str
) -> None:
    monkeypatch.setattr(downloads, "MAX_BYTES", 5000)
    handler = type("Handler", (Redirecting,), {"length": length})
    with served(handler, tmp_path, monkeypatch) as address, pytest.raises(UnavailableError, match=why):
        resolve(f"{address}/big", cache_dir=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("host", ["https://", "https:///w.pth"])
def test_an_address_without_a_host_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(WeightsError, match="the host '', which is not allowed"):
        resolve(host, cache_dir=tmp_path)


class Hub(http.server.BaseHTTPRequestHandler):
    """Tells that a file has 10 bytes, and sends as many as are taken."""

    sent: ClassVar[list[int]] = []

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"abc"')
        self.send_header("Content-Length", "10")
        self.end_headers()

    def do_GET(self) -> None:
        if "/resolve/" not in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            for _ in range(200):
                self.sent.append(self.wfile.write(bytes(1 << 20)))

    def log_message(self, *args: Any) -> None:
        pass


def test_a_repository_that_sends_more_than_it_tells_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = type("Handler", (Hub,), {"sent": []})
    monkeypatch.setattr(downloads, "MAX_BYTES", 3 << 20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with pytest.raises(UnavailableError, match=r"more than 3145728 bytes, which is the limit"):
            resolve("hf-hub:owner/repo:weights.safetensors", cache_dir=tmp_path)
        server.shutdown()
    assert 0 < sum(handler.sent) < 200 << 20  # type: ignore[attr-defined]
    assert max(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 3 << 20
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == limits


def test_a_repository_takes_a_revision() -> None:
    file = parse_hub("hf-hub:owner/repo@refs/pr/1:sub/w.pth")
    assert (file.repo, file.revision, file.filename) == ("owner/repo", "refs/pr/1", "sub/w.pth")
    assert parse_hub("hf-hub:owner/repo").filename == "model.safetensors"
    for spec in ("hf-hub:owner/repo:../../x", "hf-hub:a/b/c", "hf-hub:", "hf-hub:owner/repo@"):
        with pytest.raises(WeightsError, match=r"not of the form hf-hub:owner/repo\[@revision\]"):
            parse_hub(spec)


def _deflated(path: Path) -> Path:
    """A state dict of 256 MB of zeros, deflated to 250 kB."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(1 << 26)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for record in plain.infolist():
            packed.writestr(record.filename, plain.read(record))
    return path


def test_a_deflated_archive_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _deflated(tmp_path / "w.pth")
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("it was unpacked"))
    for digest in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
        with pytest.raises(WeightsError, match=r"unpacks to \d+ bytes, far more than it holds"):
            resolve(str(path), sha256=digest)


def test_a_tensor_that_is_larger_than_its_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"weight": torch.zeros(1, dtype=torch.float16).expand(1 << 20, 1 << 20)}, path)
    with pytest.raises(WeightsError, match=r"of shape \(1048576, 1048576\) is larger than its data"):
        load_state_dict(Checkpoint(path, ""))


def _checkpoint(folder: Path, names: dict[str, bytes], more: dict[str, str]) -> str:
    folder.mkdir()
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in names.items()}
    for name, data in names.items():
        (folder / name).write_bytes(data)
    (folder / "state.json").write_text(json.dumps({"sha256": {**sums, **more}, "step": 1, "total": 1}))
    return str(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "x?scheme=http", "extra.bin"])
def test_a_checkpoint_names_its_own_files_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    uri = _checkpoint(tmp_path / "checkpoint", {"model.safetensors": b""}, {name: digest})
    for read in (load_checkpoint, check_weights):
        with pytest.raises(UserError, match="is not one of its files"):
            read(uri)


def test_a_deflated_optimiser_is_refused(tmp_path: Path) -> None:
    packed = _deflated(tmp_path / "w.pth").read_bytes()
    uri = _checkpoint(tmp_path / "checkpoint", {"model.safetensors": b"", "optimiser.pt": packed}, {})
    state = check_weights(uri)
    with pytest.raises(UserError, match=r"optimiser\.pt is refused"):
        load_optimiser(checkpoints.Checkpoint(uri, {}, {}, state))


def _pickled(path: Path, pickle: bytes) -> Path:
    """An archive of torch.save with these operations."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + pickle + b".")
        archive.writestr("w/version", "3\n")
        archive.writestr("w/byteorder", "little")
    return path


_TEN_BILLION = b"\x8a\x05\0\xe4\x0b\x54\2\x85R"
_TWICE = b"h\0\x86q\0"
PICKLES = {
    "memory": (b"cbuiltins\nbytearray\n" + _TEN_BILLION, "it uses builtins.bytearray"),
    "a codec": (b"c_codecs\nencode\nX\1\0\0\0aX\6\0\0\0latin1\x86R", "it uses _codecs.encode"),
    "a tensor of any size": (
        b"ctorch\nHalfStorage\n\x8a\x05\0\xe4\x0b\x54\2\x85R",
        "it calls torch.HalfStorage",
    ),
    "a key that holds itself twice": (
        b"}K\1q\0" + _TWICE * 60 + b"K\1s",
        "it builds more than 10000000 parts",
    ),
    "objects": (b"ctorch\nSize\n)\x81", "the operation NEWOBJ"),
    "code": (b"cposix\nsystem\nX\2\0\0\0id\x85R", "it uses posix.system"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_builds_more_than_tensors_is_refused_before_it_is_loaded(
    tmp_path: Path, name: str
) -> None:
    """A tuple in itself, sixty times over, has a hash that takes years."""
    pickle, why = PICKLES[name]
    path = _pickled(tmp_path / "w.pth", pickle)
    with pytest.raises(WeightsError, match=rf"is refused: .*\({why}"):
        load_state_dict(Checkpoint(path, ""))
    names = {"model.safetensors": b"", "optimiser.pt": path.read_bytes()}
    uri = _checkpoint(tmp_path / "checkpoint", names, {})
    with pytest.raises(UserError, match=r"optimiser\.pt is refused"):
        load_optimiser(checkpoints.Checkpoint(uri, {}, {}, check_weights(uri)))


def test_tensors_that_share_their_data_a_thousand_times_are_refused(tmp_path: Path) -> None:
    """Half precision: each would be copied to 32 bits."""
    path, shared = tmp_path / "w.pth", torch.zeros(1 << 16, dtype=torch.float16)
    torch.save({f"w{i}": shared for i in range(1000)}, path)
    with pytest.raises(WeightsError, match="tensors of 131072000 bytes share 131072"):
        load_state_dict(Checkpoint(path, ""))
    torch.save({"a": shared, "tied": shared}, path)
    assert set(load_state_dict(Checkpoint(path, ""))) == {"a", "tied"}


@pytest.mark.parametrize("legacy", [True, False])
def test_weights_of_both_formats_of_torch_are_read(tmp_path: Path, legacy: bool) -> None:
    path, network = tmp_path / "w.pth", torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = {"state_dict": network.state_dict(), "epoch": 3, "best": None, "args": ["a", (1, 2.5)]}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    assert set(load_state_dict(Checkpoint(path, ""))) == set(network.state_dict())


def _safetensors(path: Path, header: str, size: int = 0) -> Path:
    path.write_bytes((size or len(header)).to_bytes(8, "little") + header.encode() + bytes(8))
    return path


@pytest.mark.parametrize(
    ("dtype", "shape", "size"), [("F32", [2**63, 0], 0), ("F4", [16], 8), ("F6_E2M3", [8], 6)]
)
def test_tensors_of_odd_shapes_and_types_are_refused_in_one_line(
    tmp_path: Path, dtype: str, shape: list[int], size: int
) -> None:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    path = _safetensors(tmp_path / "w.safetensors", json.dumps({"weight": entry}))
    with pytest.raises(WeightsError, match="safetensors"):
        load_state_dict(Checkpoint(path, ""))


def test_a_million_names_of_tensors_are_refused(tmp_path: Path) -> None:
    path = _safetensors(tmp_path / "w.safetensors", "{}", 1 << 25)
    for read in (load_state_dict, read_card):
        with pytest.raises(WeightsError, match="a header of 33554432 bytes"):
            read(Checkpoint(path, ""))


@pytest.mark.parametrize(
    "change",
    [
        {"history": [5]},
        {"history": ["miou"]},
        {"history": [{"miou": "high"}]},
        {"history": [{"miou": [1]}]},
        {"history": [{"miou": float("nan")}]},
        {"history": [{}, {"miou": float("inf")}]},
        {"history": [{"miou": 10**400}]},
        {"history": [{"miou": 0.5, "epoch": "1"}]},
        {"history": [{"miou": 0.5, "iou": ["x"]}]},
        {"history": [{"miou": 0.5, "iou": 7}]},
        {"interim": []},
        {"interim": {"counts": {}, "losses": 5, "steps": 1}},
        {"step": -1},
        {"total": 10**4000},
    ],
)
def test_a_state_with_a_history_that_is_none_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    uri = _checkpoint(tmp_path / "checkpoint", {"model.safetensors": b""}, {})
    path = Path(uri, "state.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert checkpoints.score(uri) == -1.0
    with pytest.raises(UserError, match=r"state\.json is damaged"):
        check_weights(uri)
