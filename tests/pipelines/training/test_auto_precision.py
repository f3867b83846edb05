"""What `train.precision=auto` becomes, and that a resumed run keeps it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from segray.models.precision import best_train_precision
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import dump, load
from segray.pipelines.engine import cluster, devices
from segray.pipelines.training.auto_precision import on_device, recorded_precision, with_precision


def config(*overrides: str) -> TrainConfig:
    return load(TrainConfig, None, ["out=run", "data.root=photos", *overrides])


@pytest.mark.parametrize(
    ("gpus", "bf16", "chosen", "expected"),
    [
        (False, False, "auto", "fp32"),
        (True, True, "auto", "bf16"),
        (True, False, "auto", "tf32"),
        (True, True, "fp32", "fp32"),
        (False, False, "bf16", "bf16"),
    ],
)
def test_auto_becomes_what_the_devices_are_good_at(
    gpus: bool, bf16: bool, chosen: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_gpus", lambda *_: gpus)
    monkeypatch.setattr(devices, "have_bf16", lambda _: bf16)
    assert with_precision(config(f"train.precision={chosen}"), None).train.precision == expected


def test_a_resumed_run_keeps_its_precision_on_any_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_gpus", lambda *_: True)
    assert recorded_precision(str(tmp_path)) is None
    (tmp_path / "config.yaml").write_bytes(dump(config("train.precision=fp32")).encode())
    recorded = recorded_precision(str(tmp_path))
    assert with_precision(config(), recorded).train.precision == "fp32"
    assert with_precision(config("train.precision=bf16"), recorded).train.precision == "bf16"


@pytest.mark.parametrize("text", ["", "[]", "train: 3", "a: [", "train: {}"])
def test_a_folder_of_something_else_records_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert recorded_precision(str(tmp_path)) is None


def test_a_worker_decides_what_is_left_of_auto() -> None:
    assert on_device(config(), torch.device("cpu")).train.precision == "fp32"
    assert on_device(config("train.precision=tf32"), torch.device("cpu")).train.precision == "tf32"
    assert best_train_precision("cuda", has_bf16=False) == "tf32"


def test_old_gpus_of_a_cluster_lack_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(cluster, "connected", lambda _: contextlib.nullcontext(""))
    for kinds, expected in ((("H100",), True), (("H100", "T4"), False), ((), True)):
        named = {f"accelerator_type:{kind}": 1.0 for kind in kinds} | {"CPU": 4.0}
        monkeypatch.setattr(ray, "cluster_resources", lambda named=named: named)
        assert devices.have_bf16("auto") is expected
