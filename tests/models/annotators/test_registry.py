"""The registry of models that annotate: what an entry must say, and what names do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from segment_anything import sam_model_registry
from transformers import Tipsv2Config, Tipsv2Model

from segray.models.annotators.protocols import AnnotatorModel, LabelModel, MaskModel
from segray.models.annotators.registry import (
    CLIP_MODELS,
    FEATURE_MODELS,
    LABEL_MODELS,
    MASK_MODELS,
    Card,
    LabelEntry,
    MaskEntry,
    label_entry,
    mask_entry,
)
from segray.models.clip.catalogue import get_model_config
from segray.models.clip.model import build_clip
from segray.models.clip.tipsv2 import TIPS_MODELS
from segray.models.sam.generator import SAM_MODELS, build_sam
from segray.pipelines.config.commands.annotate import DEFAULT_PROXY

DOCUMENT = Path(__file__).parents[3] / "docs" / "real-models.md"


ANNOTATORS: dict[str, MaskEntry | LabelEntry] = {**MASK_MODELS, **LABEL_MODELS}


@pytest.mark.parametrize(
    "card",
    [*ANNOTATORS.values(), *CLIP_MODELS.values(), *FEATURE_MODELS.values()],
    ids=[*ANNOTATORS, *CLIP_MODELS, *FEATURE_MODELS],
)
def test_an_entry_without_licence_size_or_source_fails(card: Card) -> None:
    for missing in ({"licence": " "}, {"parameters": 0}, {"source": ""}):
        with pytest.raises(ValueError, match="needs a licence, a size in millions of par"):
            replace(card, **missing)


@pytest.mark.parametrize("name", ANNOTATORS)
def test_every_family_is_there_and_documented(name: str) -> None:
    entry = ANNOTATORS[name]
    base: type[AnnotatorModel] = MaskModel if name in MASK_MODELS else LabelModel
    assert issubclass(entry.open_family(), base)
    source = "in the package" if entry.source.startswith("builtin:") else f"`{entry.source}`"
    row = f"| `{name}` | {entry.parameters:g} M | {entry.licence} | {source} |"
    assert row in DOCUMENT.read_text(encoding="utf-8")


def test_the_sizes_are_those_of_the_models() -> None:
    assert sum(p.numel() for p in build_sam("builtin")[0].parameters()) / 1e6 == pytest.approx(
        MASK_MODELS["builtin"].parameters, abs=0.05
    )
    with torch.device("meta"):
        for name in SAM_MODELS.keys() - {"builtin"}:
            found = sum(p.numel() for p in sam_model_registry[name]().parameters()) / 1e6
            assert found == pytest.approx(MASK_MODELS[name].parameters, abs=0.1)
    clip = sum(p.numel() for p in build_clip("builtin").model.parameters()) / 1e6
    assert clip == pytest.approx(CLIP_MODELS["builtin"].parameters, abs=0.05)
    assert all(get_model_config(name) for name in CLIP_MODELS if name != "builtin")


def test_the_sizes_of_models_beside_clip_are_those_of_the_models() -> None:
    assert FEATURE_MODELS.keys() == {*TIPS_MODELS, DEFAULT_PROXY}
    with torch.device("meta"):
        networks = {name: Tipsv2Model(Tipsv2Config(**tips.arch())) for name, tips in TIPS_MODELS.items()}
        networks[DEFAULT_PROXY] = timm.create_model(DEFAULT_PROXY, pretrained=False)
    for name, network in networks.items():
        found = sum(p.numel() for p in network.parameters()) / 1e6
        assert found == pytest.approx(FEATURE_MODELS[name].parameters, rel=0.005), name


def test_unknown_names_and_missing_packages_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^must be one of builtin, .*, not 'vit_x'; did you mean vit_"):
        mask_entry("vit_x")
    entry = replace(MASK_MODELS["eomt_large"], package="no_such_package")
    line = r'^sam\.model needs the package no_such_package: pip install "segray\[sam2\]"$'
    with pytest.raises(ValueError, match=line):
        entry.open_family()
    with pytest.raises(ValueError, match=r"^must be one of sam3, sam_clip, not 'sam2'; did you mean sam3"):
        label_entry("sam2", also=("sam_clip",))
    labeller = replace(LABEL_MODELS["sam3"], package="no_such_package")
    line = r'^annotator needs the package no_such_package: pip install "segray\[sam3\]"$'
    with pytest.raises(ValueError, match=line):
        labeller.open_family()


def test_the_registry_imports_no_framework() -> None:
    code = (
        "import sys, segray.models.annotators.registry as r; r.mask_names(); "
        "print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_entry_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other-1.dist-info").mkdir()
    (tmp_path / "other-1.dist-info" / "METADATA").write_text("Name: other\nVersion: 1\n")
    points = "[segray.mask_sources]\nmine = other_masks:ENTRY\nwrong = other_masks:NAME\ngone = nowhere:X\n"
    (tmp_path / "other-1.dist-info" / "entry_points.txt").write_text(points)
    (tmp_path / "other_masks.py").write_text(
        "from segray.models.annotators.registry import MaskEntry\n"
        "NAME = 'x'\nENTRY = MaskEntry('MIT', 0.1, 'builtin:sam', 'other_masks:Nothing')\n"
    )
    code = (
        "from segray.models.annotators.registry import mask_entry, mask_names\n"
        "assert mask_names()[-3:] == ['mine', 'wrong', 'gone']\n"
        "from segray.pipelines.commands.doctor import _models\n"
        "found = list(_models())\n"
        "for finding in found[-4:-1]: print(finding.ok, finding.detail)\n"
        "print(found[-1].what, found[-1].detail)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "True mine, 0.1 M parameters, MIT",
        "False the entry point wrong of segray.mask_sources is not a MaskEntry",
        "False the entry point gone of segray.mask_sources cannot be imported: No module named 'nowhere'",
        "annotator sam3, 840.4 M parameters, SAM License",
    ]


def test_defaults_of_an_entry_are_those_of_its_paper() -> None:
    assert MaskEntry("MIT", 1, "x", "m:C").pred_iou_thresh == 0.88
    assert MASK_MODELS["sam2.1_hiera_tiny"].pred_iou_thresh == 0.8
