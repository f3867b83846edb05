from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segray.models.precision import resolve_precision
from segray.pipelines.annotation.auto_precision import recorded_precisions, with_precisions
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.engine import devices
from segray.pipelines.label_set.store import LabelStore


def config(*overrides: str) -> AnnotateConfig:
    return load(AnnotateConfig, None, ["images=photos", "out=labels", "classes=cat,dog", *overrides])


def precisions(chosen: AnnotateConfig) -> list[str]:
    return [chosen.sam.precision, chosen.clip.precision]


@pytest.mark.parametrize(
    ("gpus", "overrides", "expected"),
    [
        (False, (), ["fp32", "fp32"]),
        (True, (), ["fp16", "fp16"]),
        (True, ("sam.num_gpus=0",), ["fp32", "fp16"]),
        (True, ("sam.precision=fp32", "clip.precision=bf16"), ["fp32", "bf16"]),
        (False, ("clip.precision=fp16",), ["fp32", "fp16"]),
    ],
)
def test_auto_becomes_what_the_devices_are_good_at(
    gpus: bool, overrides: tuple[str, ...], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_gpus", lambda *_: gpus)
    assert precisions(with_precisions(config(*overrides), {})) == expected


@pytest.mark.parametrize("gpus", [True, False])
def test_a_resumed_label_set_keeps_its_precision_on_any_device(
    gpus: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_gpus", lambda *_: gpus)
    recorded = {"sam.precision": "fp16", "clip.precision": "bf16"}
    assert precisions(with_precisions(config(), recorded)) == ["fp16", "bf16"]
    assert precisions(with_precisions(config("sam.precision=fp32"), recorded)) == ["fp32", "bf16"]


def test_a_label_set_older_than_precisions_was_made_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record: dict[str, Any] = {"config": {"sam.model": "vit_b", "clip.model": "ViT-B-16"}}
    assert recorded_precisions(str(tmp_path)) == {}
    monkeypatch.setattr(LabelStore, "parts", lambda _: ["part"])
    monkeypatch.setattr(LabelStore, "provenance", property(lambda _: record))
    assert recorded_precisions(str(tmp_path)) == {"sam.precision": "fp32", "clip.precision": "fp32"}


@pytest.mark.parametrize(("device", "expected"), [("cuda", "fp16"), ("cpu", "fp32")])
def test_only_auto_depends_on_the_device(device: str, expected: str) -> None:
    assert resolve_precision("auto", device) == expected
    assert [resolve_precision(name, device) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]


def test_gpus_on_request_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(devices, "is_this_machine", lambda _: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert precisions(with_precisions(config("grow.gpus=2"), {})) == ["fp16", "fp16"]
    assert precisions(with_precisions(config(), {})) == ["fp32", "fp32"]
