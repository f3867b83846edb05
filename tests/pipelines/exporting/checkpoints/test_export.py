"""`segray export checkpoint=`: its keys, the description in the files, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segray
from segray.models.clip.weights import OPENAI_MEAN, OPENAI_STD
from segray.pipelines.commands.export import execute, run
from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.exporting.checkpoints.export import CheckpointResult
from segray.pipelines.training.checkpoints import save_checkpoint
from tests.pipelines.exporting.checkpoints.readers import pixels, read_safetensors, read_torchscript
from tests.pipelines.trained_network import CLASSES, network, write_run


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", config={"augment.crop": 640, "data.root": "s3://bucket/x?sig=abc"})


def export(checkpoint: Path, out: Path, form: str, **keys: object) -> CheckpointResult:
    values = {"checkpoint": checkpoint, "out": out, "format": form, **keys}
    result = execute(load(ExportConfig, None, [f"{name}={value}" for name, value in values.items()]))
    assert isinstance(result, CheckpointResult)
    return result


def test_a_file_says_what_it_is(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.pt"
    keys = [f"checkpoint={trained}", f"out={out}", "format=torchscript"]
    run(load(ExportConfig, None, keys))
    module, described = read_torchscript(out.read_bytes())
    printed = capsys.readouterr()
    assert "network     builtin, 3 classes" in printed.out
    assert f"wrote       {out}" in printed.out
    assert (described["classes"], described["network"]) == (list(CLASSES), "builtin")
    assert described["palette"] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert described["normalisation"] == {"mean": list(OPENAI_MEAN), "std": list(OPENAI_STD), "inside": True}
    assert described["window"] == {"side": 1280, "whole": 2 * 1280 * 1280}
    assert described["input"] == {
        "name": "images",
        "layout": "NCHW",
        "channels": "RGB",
        "dtype": "uint8",
        "range": [0, 255],
        "min_side": 64,
    }
    assert b"abc" not in out.read_bytes()
    images = pixels((1, 3, 70, 90))
    expected = segray.load_network(trained).predict(images[0].permute(1, 2, 0).numpy())
    assert np.array_equal(module(images)[0].argmax(0).numpy(), expected)


def test_the_averaged_network_is_exported(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    folder.mkdir()
    student, teacher = network(1), network(2)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    state = {
        "classes": list(CLASSES),
        "network": "builtin",
        "history": [{"miou": 0.5}],
        "step": 1,
        "total": 1,
    }
    save_checkpoint(folder, student, teacher, optimiser, state)
    result = export(folder, tmp_path / "model.safetensors", "safetensors")
    tensors, described = read_safetensors((tmp_path / "model.safetensors").read_bytes())
    expected = teacher.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert (result.miou, described["validation_miou"]) == (0.5, 0.5)


def test_safetensors_are_a_checkpoint_again(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    export(trained, out, "safetensors")
    image = pixels((3, 40, 60)).permute(1, 2, 0).numpy()
    one, two = segray.load_network(trained), segray.load_network(out)
    assert (one.classes, one.window) == (two.classes, two.window)
    assert np.array_equal(one.predict(image), two.predict(image))
    # A file of a file is the same file.
    export(out, tmp_path / "again.safetensors", "safetensors")
    assert read_safetensors((tmp_path / "again.safetensors").read_bytes())[1]["classes"] == list(CLASSES)


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 8, b"\xff" * 40, b"\x02" + b"\x00" * 7 + b"[]", b"\x02" + b"\x00" * 7 + b"{}"]
)
def test_safetensors_of_anything_else_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        segray.load_network(tmp_path / "model.safetensors")


def test_only_an_export_is_replaced(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    export(trained, out, "safetensors")
    before = out.read_bytes()
    export(trained, out, "safetensors")
    assert out.read_bytes() == before
    (tmp_path / "thesis").write_text("x")
    with pytest.raises(UserError, match="is a file that segray export did not write; give another out=FILE"):
        export(trained, tmp_path / "thesis", "safetensors")
    assert (tmp_path / "thesis").read_text() == "x"
    with pytest.raises(UserError, match="is a folder; a checkpoint is exported as one file"):
        export(trained, tmp_path, "safetensors")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "^format: must be one of safetensors, .* with checkpoint=, not 'png'$"),
        ({"format": "onnx", "labels": "x"}, "^give labels=DIR or checkpoint=DIR, and not both$"),
        ({"format": "onnx", "val": 0.1}, "^val: goes with labels= alone$"),
        ({"format": "onnx", "image.roots": "x"}, "^image: goes with labels= alone$"),
        (
            {"format": "onnx", "checkpoint": None, "labels": "x"},
            "^format: must be one of png, voc, .* 'onnx'$",
        ),
        ({"checkpoint": None, "labels": "x", "pixels": "float32"}, "^pixels: goes with checkpoint= alone$"),
        ({"checkpoint": None}, "^give labels=DIR or checkpoint=DIR, and not both$"),
    ],
)
def test_keys_of_labels_and_checkpoints_do_not_mix(keys: dict[str, Any], message: str) -> None:
    values = {"checkpoint": "run", "out": "x", **keys}
    with pytest.raises(UserError, match=message):
        load(ExportConfig, None, [f"{k}={v}" for k, v in values.items() if v is not None])


def test_a_missing_package_is_named_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    target = "segray.pipelines.exporting.checkpoints.formats.find_spec"
    monkeypatch.setattr(target, lambda name: None if name == "onnxscript" else there(name))
    with pytest.raises(
        UserError, match=r'^format: onnx needs the package onnxscript: pip install "segray\[onnx\]"'
    ):
        export(tmp_path / "nowhere", tmp_path / "x.onnx", "onnx")


def test_a_network_that_a_format_cannot_hold_is_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand a page of text")

    monkeypatch.setattr("torch.jit.trace", fail)
    with pytest.raises(
        UserError, match=r"^format: torchscript cannot hold the network builtin: no such operator$"
    ):
        export(trained, tmp_path / "x.pt", "torchscript")
    assert not (tmp_path / "x.pt").exists()
