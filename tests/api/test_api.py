"""The Python API: the code of docs/python.md runs, and each function returns what its command prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import segray
from segray.models.segmenters.registry import Segmenter
from segray.pipelines.commands.picture_book import run as draw_scenes
from segray.pipelines.config.commands.picture_book import PictureBookConfig
from tests.previous_version.archive import unpack

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(label set, masks) of eight small scenes."""
    root = unpack(tmp_path_factory.mktemp("store"))
    return str(root / "labels"), root / "book" / "masks"


def test_importing_the_package_loads_neither_torch_nor_ray() -> None:
    code = "import segray, sys; print({'torch', 'ray', 'numpy', 'pyarrow', 'pandas'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.ray
@pytest.mark.slow
def test_the_code_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_scenes(PictureBookConfig(out=str(tmp_path / "scenes"), n=12, size=64))
    monkeypatch.chdir(tmp_path)
    page: dict[str, object] = {}
    for block in BLOCKS:
        exec(block, page)
    assert len(BLOCKS) == 3
    assert "12 labelled, 0 failed" in capsys.readouterr().out
    mask, truth = page["mask"], np.array(Image.open("scenes/masks/val/scene-000011.png"))
    assert isinstance(mask, np.ndarray)
    assert (mask.shape, mask.dtype) == (truth.shape, np.uint8)
    assert len(list((tmp_path / "predictions" / "masks").rglob("*.png"))) == 2


def test_samples_hold_the_stored_maps_and_segments(labels: tuple[str, Path]) -> None:
    label_set = segray.LabelSet(labels[0])
    samples = list(label_set)
    assert len(samples) == len(label_set) == 8
    for sample in samples:
        assert sample.label.shape == sample.confidence.shape == (96, 96)
        assert sample.label.max() < len(label_set.classes)
        assert 0 <= sample.confidence.min() <= sample.confidence.max() <= 1
        for segment in sample.segments:
            assert segment.mask.shape == sample.label.shape
            assert segment.mask.sum() == segment.area
            x, y, width, height = (int(value) for value in segment.bbox)
            assert segment.mask[y : y + height, x : x + width].sum() == segment.area
    assert any(sample.segments for sample in samples)


def test_the_table_has_a_row_per_image(labels: tuple[str, Path]) -> None:
    table = segray.LabelSet(labels[0]).to_pandas()
    assert list(table["status"]) == ["ok"] * 8
    assert {"image_id", "width", "class_ids", "n_segments"} <= set(table.columns)
    assert not {"label", "image", "confidence"} & set(table.columns)


def test_evaluate_equals_the_command_s_scores(labels: tuple[str, Path]) -> None:
    scores = segray.evaluate(labels=labels[0], masks=labels[1])
    assert scores.n_images == 8
    assert 0 < scores.miou <= 1


def test_relabel_returns_what_it_wrote(labels: tuple[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "new"
    result = segray.relabel(
        labels=labels[0], out=out, classes=["tree", "sun"], label={"templates": "single", "threshold": 0.1}
    )
    assert (result.ok, result.images, result.out) == (8, 8, str(out))
    assert str(result).splitlines()[1].startswith("images      8: 8 ok")
    assert segray.LabelSet(out).classes == ("background", "tree", "sun")


def test_export_returns_what_it_wrote(labels: tuple[str, Path], tmp_path: Path) -> None:
    keys = {"format": "coco", "classes": {"tree": "plant", "flower": "plant"}, "images": "none"}
    result = segray.export(labels=labels[0], out=tmp_path / "out", val=0.25, **keys)
    assert result.images == {"train": 6, "val": 2}
    assert "plant" in result.classes
    assert str(result).startswith("images      8: 8 exported (6 train, 2 val), 0 left out")
    assert segray.export(labels=labels[0], out=tmp_path / "out", val=0.25, **keys) == result


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "images: required"),
        (
            {"images": "x", "out": "y", "sam": {"modle": "vit_b"}},
            "unknown key sam.modle; did you mean sam.model?",
        ),
        ({"images": "x", "out": "y", "sam.points_per_side": 0}, "sam.points_per_side: '?0'? is out of range"),
        ({"images": "x", "out": "y", "embeddings": 3}, "embeddings"),
    ],
)
def test_bad_keys_are_a_user_error(keys: dict[str, object], message: str) -> None:
    with pytest.raises(segray.UserError, match=message):
        segray.annotate(**keys)


def test_a_folder_without_a_label_set_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(segray.UserError, match="no label set here"):
        segray.LabelSet(tmp_path)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_pixels_of_another_kind_are_a_user_error(pixels: NDArray[np.uint8]) -> None:
    network = segray.Network(cast("Segmenter", torch.nn.Identity()), ("background",), None)
    with pytest.raises(segray.UserError, match=r"expected RGB pixels uint8 \[H, W, 3\]"):
        network.predict(pixels)
