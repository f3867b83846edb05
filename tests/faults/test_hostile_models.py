"""Weights that somebody sent: archives that readers see differently, and what a file says of itself."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils._runtime import is_xet_available
from safetensors.torch import save_file

from segray.models import architectures
from segray.models.annotators.loading import check_model, open_model
from segray.models.builtin.arch import CLIP_ARCH, SAM_ARCH
from segray.models.clip.model import build_clip
from segray.models.clip.weights import find_weights
from segray.models.weights import Checkpoint, WeightsError, load_state_dict, resolve
from segray.pipelines.errors import UserError
from segray.pipelines.training import checkpoints
from segray.pipelines.training.checkpoints import check_weights, load_optimiser
from tests.faults.test_hostile_weights import _checkpoint
from tests.models.annotators.tiny import EOMT, SAM2, tiny_network

BOMB = 300 << 20


def _bomb() -> bytes:
    """Weights whose pickle goes on for 300 MB, deflated to 300 kB."""
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + bytes(BOMB if name.endswith("data.pkl") else 0))
    return packed.getvalue()


def _with_comment(data: bytes, comment: bytes) -> bytes:
    return data[:-2] + struct.pack("<H", len(comment)) + comment


def _with_second_end(data: bytes) -> bytes:
    """The end that the last 64-bit record tells of is another one than the nearest."""
    near = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 0, 0, 0, len(data))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
    return data + near + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 0, 0, 0)


ODD: dict[str, Callable[[bytes], bytes]] = {
    "bytes behind the end": lambda data: data + b"PK\5\6",
    "a comment": lambda data: _with_comment(data, b"PK\5\6" + bytes(30)),
    "two ends": _with_second_end,
    "bytes before the directory's end": lambda data: data[:-22] + bytes(7) + data[-22:],
}


@pytest.mark.parametrize("kind", ODD)
def test_an_archive_that_readers_see_differently_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Python's reader took the first of these for no archive, so that nobody saw what torch's unpacks."""
    data = ODD[kind](_bomb())
    monkeypatch.setattr(torch._C, "PyTorchFileReader", lambda *_: pytest.fail("it was unpacked"))
    path = tmp_path / "w.pth"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"the end of its archive|two ends|does not end where"):
        resolve(str(path))
    with pytest.raises(WeightsError, match="is refused"):
        load_state_dict(Checkpoint(path, ""))
    uri = _checkpoint(tmp_path / "checkpoint", {"model.safetensors": b"", "optimiser.pt": data}, {})
    with pytest.raises(UserError, match=r"optimiser\.pt is refused"):
        load_optimiser(checkpoints.Checkpoint(uri, {}, {}, check_weights(uri)))


@pytest.mark.parametrize("switch", [True, False])
def test_the_hub_is_read_without_its_xet_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: bool
) -> None:
    """No limit of ours sees what its native code writes."""
    path = tmp_path / "w.safetensors"
    seen: list[bool] = []
    save_file({"a": torch.zeros(1)}, path)

    def download(*_: object, **__: object) -> str:
        seen.append(is_xet_available())
        return str(path)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", switch)
    monkeypatch.setattr("huggingface_hub.utils._runtime.is_package_available", lambda _: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert resolve("hf-hub:owner/repo:w.safetensors", cache_dir=tmp_path).path == path
    assert seen == [False]
    assert is_xet_available() is not switch


def _weights(path: Path, arch: object) -> str:
    save_file({"x": torch.zeros(8)}, path, {"segray": json.dumps({"arch": arch})})
    return str(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"attn_implementation": "stranger/kernel"}, r"its arch\.attn_implementation must be a number"),
        ({"_attn_implementation": 1}, r"the key '_attn_implementation'"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"arch\.quantization_config\.quant_method"),
        ({"auto_map": {"AutoModel": "evil--model.Model"}}, r"arch\.auto_map\.AutoModel"),
        ({"backbone": "stranger/backbone"}, r"arch\.backbone"),
        ({"hidden_size": 1 << 40}, r"arch\.hidden_size must be a number up to 65536"),
        ({"hidden_size": float("nan")}, r"arch\.hidden_size"),
        ({"image_size": [64] * 1000}, r"arch\.image_size has 1000 items"),
        ({"num_hidden_layers": 60_000}, r"has \d+ parameters or more, and the file far fewer"),
    ],
)
def test_an_architecture_in_a_file_is_numbers_alone(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = _weights(tmp_path / "w.safetensors", {**EOMT, **change})
    with pytest.raises(WeightsError, match=why):
        open_model("eomt_large", path)


def test_another_kind_of_backbone_in_a_file_is_refused(tmp_path: Path) -> None:
    backbone = {**SAM2["vision_config"]["backbone_config"], "model_type": "timm_wrapper"}
    arch = {**SAM2, "vision_config": {**SAM2["vision_config"], "backbone_config": backbone}}
    with pytest.raises(WeightsError, match=r"arch\.vision_config\.backbone_config\.model_type"):
        open_model("sam2.1_hiera_tiny", _weights(tmp_path / "w.safetensors", arch))


def test_an_input_of_any_size_in_a_file_is_refused(tmp_path: Path) -> None:
    """Its side has no parameters: the file fits, and an image would become one of 65,536 pixels a side."""
    state = tiny_network("eomt_large").state_dict()
    state = {key: value.contiguous() for key, value in state.items() if "position" not in key}
    path = tmp_path / "w.safetensors"
    save_file(state, path, {"segray": json.dumps({"arch": {**EOMT, "image_size": 65_536}})})
    with pytest.raises(WeightsError, match=r"does not fit|pixels a side"):
        open_model("eomt_large", str(path))


@pytest.mark.parametrize("value", [0, -1, 1 << 40, 1.5, "8", None, True])
@pytest.mark.parametrize("key", ["depth", "img_size", "window"])
def test_sizes_of_the_builtin_sam_in_a_file_are_bounded(tmp_path: Path, key: str, value: object) -> None:
    path = _weights(tmp_path / "w.safetensors", {**SAM_ARCH, key: value})
    with pytest.raises(WeightsError, match="'arch' must have whole numbers"):
        check_model("builtin", path)


@pytest.mark.parametrize("value", [0, 1 << 20, "8", {"a": 1}])
def test_sizes_of_the_builtin_clip_in_a_file_are_bounded(tmp_path: Path, value: object) -> None:
    arch = {**CLIP_ARCH, "text_cfg": {**CLIP_ARCH["text_cfg"], "context_length": value}}
    with pytest.raises(WeightsError, match="'arch' is not that of the built-in CLIP"):
        build_clip("builtin", _weights(tmp_path / "w.safetensors", arch))


def test_a_network_that_outgrows_its_file_is_built_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_MOST_MODULES", 100)
    layers = [torch.nn.Identity() for _ in range(1000)]
    with pytest.raises(ValueError, match="more than 100 modules"), architectures.at_most(10):
        torch.nn.Sequential(*layers)
    with pytest.raises(ValueError, match="has 16 parameters or more"), architectures.at_most(10):
        torch.nn.Linear(4, 4)
    torch.nn.Linear(4, 4)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "5", "null", '{"preprocess_cfg": 5}', '{"model_cfg": []}', "[" * 100_000, "{", "\xff"),
        *(
            f'{{"preprocess_cfg": {{"mean": {v}}}}}'
            for v in ("[1, 2]", '"abc"', "[1, 2, NaN]", "[1, 2, 1e300]")
        ),
        '{"preprocess_cfg": {"std": [1, 1, 0]}}',
        '{"x": "' + "a" * (1 << 20) + '"}',
    ],
)
def test_a_configuration_beside_weights_of_the_hub_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    config = tmp_path / "open_clip_config.json"
    config.write_text(text, encoding="latin-1")

    def resolve_here(spec: str, **_: object) -> Checkpoint:
        return Checkpoint(tmp_path / spec.rpartition(":")[2], "")

    monkeypatch.setattr("segray.models.weights.resolve", resolve_here)
    with pytest.raises(WeightsError, match=r"open_clip_config\.json is not open_clip's configuration"):
        find_weights("ViT-B-16", "hf-hub:owner/repo")
    config.write_text('{"model_cfg": {"quick_gelu": true}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}')
    source = find_weights("ViT-B-16", "hf-hub:owner/repo")
    assert (source.quick_gelu, source.mean) == (True, (0.5, 0.5, 0.5))
