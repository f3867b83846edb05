from __future__ import annotations

import hashlib
import http.server
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segray.models import weights
from segray.models.weights import Checkpoint, WeightsError, load_into, load_state_dict, read_card, resolve
from tests.https_server import served


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"weight": torch.randn(40, 30), "bias": torch.randn(40)}


@pytest.fixture(params=["safetensors", "pth", "legacy.pth"])
def file(request: pytest.FixtureRequest, tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / f"w.{request.param}"
    if request.param == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=request.param == "pth")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def one_line(error: pytest.ExceptionInfo[WeightsError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_local_file_is_hashed_and_read(file: Path, tensors: dict[str, Tensor]) -> None:
    checkpoint = resolve(str(file), sha256=sha256(file).upper())
    assert checkpoint == Checkpoint(file, sha256(file))
    loaded = load_state_dict(checkpoint)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_a_flipped_byte_is_found_by_the_digest(file: Path) -> None:
    expected = sha256(file)
    flip(file, -1000)
    with pytest.raises(WeightsError) as error:
        resolve(str(file), sha256=expected)
    text = one_line(error)
    assert str(file) in text
    assert f"has sha256 {sha256(file)}, expected {expected}" in text


def test_a_flipped_byte_of_an_archive_is_found_without_a_digest(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    path = tmp_path / "w.pth"
    torch.save(tensors, path)
    flip(path, path.read_bytes().index(tensors["weight"].numpy().tobytes()) + 17)
    with pytest.raises(
        WeightsError, match=r"w\.pth is damaged: the checksum of its record w/data/0 is wrong"
    ):
        resolve(str(path))


@pytest.mark.parametrize("size", [0, 10, 700])
def test_a_cut_file_is_refused(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WeightsError) as error:
        load_state_dict(Checkpoint(file, ""))
    assert str(file) in one_line(error)


def test_a_missing_file_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file at .*/nothing\.pth"):
        resolve(str(tmp_path / "nothing.pth"))
    with pytest.raises(WeightsError, match="no weights file at"):
        resolve(str(tmp_path))


def test_a_pickle_bomb_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    for path, save in ((tmp_path / "raw.pth", pickle.dump), (tmp_path / "zip.pt", torch.save)):
        with path.open("wb") as out:
            save({"weight": Bomb()}, out)
        with pytest.raises(WeightsError, match=r"is refused: .* pickled code is never run"):
            load_state_dict(resolve(str(path)))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrappers_and_prefixes_are_taken_off_and_halves_become_floats(tmp_path: Path, wrapper: str) -> None:
    state = {"module.a": torch.ones(2, dtype=torch.float16), "module.n": torch.tensor(3)}
    torch.save({wrapper: state, "epoch": 5}, tmp_path / "w.pth")
    loaded = load_state_dict(resolve(str(tmp_path / "w.pth")))
    assert loaded.keys() == {"a", "n"}
    assert loaded["a"].dtype == torch.float32
    assert loaded["n"].dtype == torch.int64


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds no state dict"), ({}, "holds no state dict"), ({"a": 1}, "'a' is a int, not a tensor")],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load_state_dict(resolve(str(tmp_path / "w.pth")))


def test_weights_that_do_not_fit_name_the_first_keys_and_shapes(tmp_path: Path) -> None:
    state = {"weight": torch.zeros(3, 2), **{f"extra{i}": torch.zeros(1) for i in range(5)}}
    save_file(state, tmp_path / "w.safetensors")
    checkpoint = resolve(str(tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError) as error:
        load_into(nn.Linear(4, 3), checkpoint, "vit_x")
    assert one_line(error) == (
        f"{checkpoint.path} does not fit the model vit_x: missing: bias; "
        "unexpected: extra0, extra1, extra2 and 2 more; wrong shapes: weight is (3, 2), expected (3, 4)"
    )


def test_the_card_is_read_from_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"segray": json.dumps({"arch": {"width": 8}})})
    assert read_card(resolve(str(path))) == {"arch": {"width": 8}}
    save_file({"a": torch.zeros(1)}, path)
    assert read_card(resolve(str(path))) == {}
    save_file({"a": torch.zeros(1)}, path, {"segray": "[1]"})
    with pytest.raises(WeightsError, match="must be a JSON object"):
        read_card(resolve(str(path)))


def test_built_in_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensors: dict[str, Tensor]
) -> None:
    with pytest.raises(WeightsError, match="no built-in weights 'vit_b'; there are clip, "):
        resolve("builtin:vit_b")
    monkeypatch.setattr(weights, "BUILTIN_FOLDER", tmp_path)
    with pytest.raises(WeightsError, match=r"sam\.safetensors .*builtin:sam"):
        resolve("builtin:sam")
    path = tmp_path / "sam.safetensors"
    save_file(tensors, path)
    (tmp_path / "SHA256SUMS").write_text(f"{sha256(path)}  {path.name}\n")
    assert resolve("builtin:sam").path == path
    flip(path, -5)
    with pytest.raises(WeightsError, match="has sha256"):
        resolve("builtin:sam")


class _Handler(http.server.BaseHTTPRequestHandler):
    content: ClassVar[bytes] = b""
    cut: ClassVar[int | None] = None
    n_requests: ClassVar[int] = 0

    def do_GET(self) -> None:
        type(self).n_requests += 1
        if self.path.endswith("/missing.pth"):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: self.cut])
        return None

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, type[_Handler]]]:
    save_file(tensors, tmp_path / "served")
    handler = type("Handler", (_Handler,), {"content": (tmp_path / "served").read_bytes()})
    with served(handler, tmp_path, monkeypatch) as address:
        yield address, handler


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_url_is_fetched_once(
    server: tuple[str, type[_Handler]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensors: dict[str, Tensor],
) -> None:
    monkeypatch.setenv("SEGRAY_CACHE", str(tmp_path / "cache"))
    url, handler = server
    digest = hashlib.sha256(handler.content).hexdigest()
    first = resolve(f"{url}/a/w.safetensors", sha256=digest)
    assert resolve(f"{url}/a/w.safetensors", sha256=digest) == first
    assert handler.n_requests == 1
    assert first.sha256 == digest
    assert torch.equal(load_state_dict(first)["weight"], tensors["weight"])
    assert files(tmp_path / "cache") == ["w.safetensors"]
    assert resolve(f"{url}/b/w.safetensors", sha256=digest).path != first.path


def test_a_damaged_file_in_the_cache_is_found(server: tuple[str, type[_Handler]], tmp_path: Path) -> None:
    url, handler = server
    digest = hashlib.sha256(handler.content).hexdigest()
    flip(resolve(f"{url}/w.safetensors", sha256=digest, cache_dir=tmp_path / "cache").path, -1)
    with pytest.raises(WeightsError, match=f"expected {digest}; remove it and get it again"):
        resolve(f"{url}/w.safetensors", sha256=digest, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "cut", "wrong_digest", "message"),
    [
        ("w.pth", 100, False, "the connection broke after 100 of [0-9]+ bytes"),
        ("w.pth", None, True, "its sha256 is [0-9a-f]{64}, expected 0000"),
        ("missing.pth", None, False, "404"),
    ],
)
def test_a_failed_download_leaves_nothing(
    server: tuple[str, type[_Handler]],
    tmp_path: Path,
    name: str,
    cut: int | None,
    wrong_digest: bool,
    message: str,
) -> None:
    url, handler = server
    handler.cut = cut
    digest = "0" * 64 if wrong_digest else hashlib.sha256(handler.content).hexdigest()
    with pytest.raises(WeightsError, match=message):
        resolve(f"{url}/{name}", sha256=digest, cache_dir=tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_a_download_killed_midway_leaves_no_file_under_the_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    killed = threading.Event()

    class Slow(_Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "9000000")
            self.end_headers()
            self.wfile.write(bytes(3_000_000))
            killed.wait()

    with served(Slow, tmp_path, monkeypatch) as address:
        code = "import sys; from segray.models.weights import resolve; resolve(sys.argv[1], sha256='0' * 64)"
        paths = {"SEGRAY_CACHE": str(cache), "PYTHONPATH": str(Path(weights.__file__).parents[2])}
        environment = {**os.environ, **paths}
        with subprocess.Popen([sys.executable, "-c", code, f"{address}/w.pth"], env=environment) as process:
            while not any(path.stat().st_size for path in cache.rglob("*.part")):
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        killed.set()
    assert [name.endswith(".part") for name in files(cache)] == [True]


def test_offline_says_in_one_line_where_to_put_the_file(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{closed.getsockname()[1]}/sam.pth"
        with pytest.raises(WeightsError) as error:
            resolve(url, cache_dir=tmp_path)
    text = one_line(error)
    assert text.startswith(f"cannot download {url}: ")
    assert "Connection refused" in text
    put_there = Path(text.split("put it at ")[1].split(", or")[0])
    assert put_there.is_relative_to(tmp_path)
    torch.save({"a": torch.zeros(1)}, put_there)
    assert resolve(url, cache_dir=tmp_path).path == put_there


def test_plain_http_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not encrypted: use an https:// address"):
        resolve("http://127.0.0.1/w.pth", sha256="0" * 64, cache_dir=tmp_path)


@pytest.mark.parametrize(
    "spec", ["hf-hub:someone/sam:w.pth", "hf-hub:someone/sam", "hf-hub:someone/sam@v1.0"]
)
def test_the_hub_offline_gives_one_line(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as error:
        resolve(spec, cache_dir=tmp_path)
    text = one_line(error)
    assert text.startswith(
        f"cannot get {'w.pth' if ':w' in spec else 'model.safetensors'} of the Hugging Face"
    )
    assert "local path" in text
