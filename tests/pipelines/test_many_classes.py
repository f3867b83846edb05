"""300 classes through every command: 16-bit label PNGs from annotation to prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import segray
from segray.models.label_space import WIDE_IGNORE_INDEX, LabelSpace
from segray.pipelines.commands import annotate, evaluate, masks, predict, relabel, report, train
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.evaluate import EvaluateConfig
from segray.pipelines.config.commands.masks import MasksConfig
from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.report import ReportConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.scenes.picture_book import draw_scene

N = 300
SIZE = 48


def class_file(folder: Path, names: list[str]) -> Path:
    path = folder / "classes.txt"
    path.write_text("\n".join(names), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, 16-bit masks of ids 0 to 300, and a label set of 300 classes, of which the last ones win."""
    folder = tmp_path_factory.mktemp("many")
    # The names that CLIP knows come last: their ids need more than 8 bits.
    known = ["tree", "house", "car", "boat", "ball", "flower", "fish", "person", "sun"]
    names = [f"qx{i} zv" for i in range(N - len(known))] + known
    rng = np.random.default_rng(0)
    for index in range(4):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(draw_scene(3, index, SIZE).image).save(folder / "images" / f"{index}.png")
        mask = rng.integers(0, N + 1, (6, 6)).repeat(8, 0).repeat(8, 1).astype(np.uint16)
        mask[:8, :8], mask[8:16, :8] = WIDE_IGNORE_INDEX, N
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
    words = (
        *(f"images={folder / 'images'}", f"out={folder / 'labels'}", f"classes={class_file(folder, names)}"),
        *("sam.model=builtin", "clip.model=builtin", "sam.points_per_side=3", "sam.pred_iou_thresh=0"),
        *("sam.stability_score_thresh=0", "label.threshold=-1", "label.background_names="),
    )
    annotate.run(load(AnnotateConfig, None, list(words)))
    return folder


def mask_of(path: Path) -> NDArray[np.uint16]:
    with Image.open(path) as image:
        assert image.mode == "I;16"
        return np.asarray(image)


def test_label_sets_hold_16_bit_maps(root: Path) -> None:
    label_set = segray.LabelSet(root / "labels")
    samples = list(label_set)
    assert label_set.provenance["ignore_index"] == WIDE_IGNORE_INDEX
    assert len(label_set.provenance["palette"]) == N + 1
    assert all(sample.label.dtype == np.uint16 for sample in samples)
    assert max(sample.label.max() for sample in samples) > 255
    assert max(segment.class_id for sample in samples for segment in sample.segments) > 255
    _, label = label_set.torch_dataset([str(root / "images")])[0]
    assert label.dtype == torch.int64
    assert label.max() > 255
    report_ = verify(str(root / "labels"))
    assert report_.ok
    assert sum(report_.pixels.pixels[256:]) > 0


def test_relabel_changes_between_8_and_16_bits(root: Path, tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    words = [f"labels={root / 'labels'}", f"out={few}", "classes=tree,house,sun"]
    relabel.run(load(RelabelConfig, None, words))
    assert all(sample.label.dtype == np.uint8 for sample in segray.LabelSet(few))
    assert verify(str(few)).ok
    words = [f"labels={few}", f"out={many}", f"classes={root / 'classes.txt'}", "label.background_names="]
    relabel.run(load(RelabelConfig, None, [*words, "label.threshold=-1"]))
    assert verify(str(many)).ok
    pairs = zip(segray.LabelSet(many), segray.LabelSet(root / "labels"), strict=True)
    assert all(np.array_equal(a.label, b.label) for a, b in pairs)


def test_evaluate_and_report_compare_whole_ids(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"masks={root / 'masks'}", f"out={tmp_path}"]
    evaluate.run(load(EvaluateConfig, None, [f"labels={root / 'labels'}", *words]))
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(scores["classes"]) == N + 1
    assert scores["classes"][N]["truth_pixels"] >= 4 * 64
    assert scores["ignored_pixels"] == 4 * 64
    # A folder of 16-bit maps, whose ids have no names, against itself.
    evaluate.run(load(EvaluateConfig, None, [f"labels={root / 'masks'}", *words]))
    assert json.loads((tmp_path / "evaluation.json").read_text())["pixel_accuracy"] == 1
    report.run(load(ReportConfig, None, [f"out={root / 'labels'}", f"masks={root / 'masks'}"]))
    assert "sun" in (root / "labels" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["segray", pytest.param("unimatch_v2", marks=pytest.mark.slow)])
def test_training_and_prediction(root: Path, tmp_path: Path, method: str) -> None:
    words = [
        *(f"out={tmp_path / 'run'}", f"data.labels={root / 'labels'}", f"method={method}"),
        *("data.kind=folder", f"data.root={root}", f"data.classes={root / 'classes.txt'}"),
        *("data.validation=1", "data.labelled=2", "network.name=builtin", "network.pretrained=false"),
        *("augment.crop=32", "train.epochs=1", "train.batch=2", "trackers="),
    ]
    train.run(load(TrainConfig, None, words))
    (entry,) = json.loads((tmp_path / "run" / "history.json").read_text())
    assert len(entry["iou"]) == len(entry["confusion"]) == N + 1
    assert sum(map(sum, entry["confusion"])) == SIZE * SIZE - 64
    assert entry["ignored"] == pytest.approx(64 / SIZE**2)
    report.run(load(ReportConfig, None, [f"out={tmp_path / 'run'}"]))
    out = tmp_path / "out"
    words = [f"checkpoint={tmp_path / 'run'}", f"images={root / 'images'}", f"out={out}"]
    predict.run(load(PredictConfig, None, words))
    label = mask_of(out / "masks" / "0.png.png")
    assert label.max() <= N
    network = segray.load_network(tmp_path / "run")
    np.testing.assert_array_equal(network.predict(str(root / "images" / "0.png")), label)


def test_masks_are_converted_to_16_bits(root: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "set", tmp_path / "out"
    source.mkdir()
    (source / "images").symlink_to(root / "images")
    (source / "masks").mkdir()
    for path in (root / "masks").iterdir():
        with Image.open(path) as image:
            image.save(source / "masks" / f"{path.stem}.tif")
    words = [f"in={source}", f"out={out}", f"classes={root / 'classes.txt'}"]
    masks.run(load(MasksConfig, None, words))
    for path in (root / "masks").iterdir():
        np.testing.assert_array_equal(mask_of(out / "masks" / path.name), mask_of(path))


def test_colours_of_many_classes_differ() -> None:
    names = tuple(f"class {i}" for i in range(N + 1))
    palette = LabelSpace(names, ()).palette()
    assert len({tuple(colour) for colour in palette.tolist()}) == len(palette) > N
    np.testing.assert_array_equal(LabelSpace(names[:9], ()).palette(), palette[:256])
