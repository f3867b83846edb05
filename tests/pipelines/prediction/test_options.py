"""What `segray predict` writes besides masks and overlays, how it predicts, and what a resumed run writes."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import segray
from segray.models.label_space import LabelSpace
from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import decode_gray_png, encode_gray_png
from segray.pipelines.prediction import encoding
from segray.pipelines.prediction.rows import ImageRow, ImageRows
from tests.faults.invariant import files
from tests.pipelines.plain_runs import draw_scenes
from tests.pipelines.trained_network import CLASSES, write_run

ALL = {"overlays": False, "confidence": True, "coco": True}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("options") / "run")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes, and a file that is none."""
    folder = draw_scenes(tmp_path_factory.mktemp("options") / "images", 3)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def _mask(out: Path, name: str, kind: str = "masks") -> NDArray[np.uint8]:
    return decode_gray_png((out / kind / f"{name}.png").read_bytes())


def _table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


def test_confidences_are_those_of_the_network(trained: Path, images: Path, tmp_path: Path) -> None:
    result = segray.predict(checkpoint=trained, images=images, out=tmp_path / "out", **ALL)
    network = segray.load_network(trained)
    means, sizes = list[float](), list[int]()
    for name in ("scene-0.png", "scene-1.png", "scene-2.png"):
        label, confidence = network.predict_with_confidence(images / name)
        np.testing.assert_array_equal(_mask(tmp_path / "out", name), label)
        levels = _mask(tmp_path / "out", name, "confidence")
        np.testing.assert_array_equal(levels, np.rint(confidence * 255))
        assert 1 / len(CLASSES) <= confidence.min() <= confidence.max() <= 1
        means.append(confidence.mean())
        sizes.append(confidence.size)
        assert float(_table(tmp_path / "out")[name]["mean_confidence"]) == pytest.approx(means[-1], abs=1e-4)
    assert _table(tmp_path / "out")["bad.png"]["mean_confidence"] == ""
    assert result.mean_confidence == pytest.approx(np.average(means, weights=sizes), abs=1e-5)
    assert any(line.split()[-2:] == ["images", "confidence"] for line in result.summary)


def test_objects_are_read_by_pycocotools(trained: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segray.predict(checkpoint=trained, images=images, out=out, **ALL)
    coco = COCO(str(out / "coco.json"))
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == {1: "cat", 2: "dog"}
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [
        f"scene-{i}.png" for i in range(3)
    ]
    for image in coco.loadImgs(coco.getImgIds()):
        label = np.zeros((image["height"], image["width"]), np.uint8)
        levels = _mask(out, image["file_name"], "confidence")
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            inside = coco_mask.decode(annotation["segmentation"]).astype(bool)
            assert annotation["score"] == pytest.approx(levels[inside].mean() / 255, abs=1e-4)
            label[inside] = annotation["category_id"]
        np.testing.assert_array_equal(label, _mask(out, image["file_name"]))


def test_a_first_class_that_is_no_background_has_objects(images: Path, tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run", classes=["sky", "cat", "dog"]), tmp_path / "out"
    segray.predict(checkpoint=run, images=images / "scene-0.png", out=out, **ALL)
    coco = COCO(str(out / "coco.json"))
    assert coco.getCatIds() == [0, 1, 2]
    covered = sum(coco_mask.decode(a["segmentation"]) for a in coco.loadAnns(coco.getAnnIds()))
    assert np.all(covered == 1)


def test_too_many_objects_are_an_image_with_that_reason(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", classes=["sky", "cat", "dog"])
    monkeypatch.setattr("segray.pipelines.exporting.objects.MAX_OBJECTS", 0)
    with pytest.raises(UserError, match="not one of 1 images could be labelled"):
        segray.predict(checkpoint=run, images=images / "scene-0.png", out=tmp_path / "out", **ALL)
    reason = _table(tmp_path / "out")["scene-0.png"]["error"]
    assert reason.startswith("coco: ")
    assert reason.endswith("coco=false writes the mask alone")


def test_palette_masks_have_the_same_ids_in_colours(trained: Path, images: Path, tmp_path: Path) -> None:
    for name, palette in (("gray", False), ("colours", True)):
        out = tmp_path / name
        segray.predict(checkpoint=trained, images=images, out=out, overlays=False, palette=palette)
    path = tmp_path / "colours" / "masks" / "scene-0.png.png"
    label = _mask(tmp_path / "gray", "scene-0.png")
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), label)
        shown = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(shown, LabelSpace(CLASSES, ()).palette()[label])
    np.testing.assert_array_equal(decode_gray_png(path.read_bytes()), label)


def test_a_palette_has_no_room_for_16_bits(images: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", classes=["background", *map(str, range(300))])
    with pytest.raises(UserError, match="palette: 301 classes need ids of 16 bits, a palette has 256;"):
        segray.predict(checkpoint=run, images=images, out=tmp_path / "out", palette=True)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("views.scales=", "views.scales: empty (allowed: at least one scale, such as 1)"),
        ("views.scales=1,8", "views.scales: 8 is out of range (allowed: 0.25 to 4)"),
        ("views.scales=1,1", "views.scales: 1 is listed twice"),
        ("views.scales=big", "views.scales"),
        ("views.flip=left", "views.flip"),
        ("precision=int8", "precision: must be one of auto, fp32, tf32, bf16, fp16, not 'int8'"),
        ("confidence=2", "confidence"),
        ("coco=maybe", "coco"),
        ("palette=voc", "palette"),
    ],
)
def test_values_that_are_none_are_refused(key: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(PredictConfig, None, ["checkpoint=a", "images=b", "out=c", key])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_views_are_averaged_as_in_python(trained: Path, images: Path, tmp_path: Path) -> None:
    out, views = tmp_path / "out", {"flip": True, "scales": [1, 1.5]}
    segray.predict(checkpoint=trained, images=images, out=out, overlays=False, confidence=True, views=views)
    network = segray.load_network(trained, flip=True, scales=(1, 1.5))
    label, confidence = network.predict_with_confidence(images / "scene-0.png")
    np.testing.assert_array_equal(_mask(out, "scene-0.png"), label)
    np.testing.assert_array_equal(_mask(out, "scene-0.png", "confidence"), np.rint(confidence * 255))
    plain = segray.load_network(trained).predict_with_confidence(images / "scene-0.png")[1]
    assert not np.array_equal(plain, confidence)


def test_an_evaluation_has_the_same_views(trained: Path, images: Path, tmp_path: Path) -> None:
    out, masks, views = tmp_path / "out", tmp_path / "masks", {"flip": True, "scales": [0.5, 1]}
    segray.predict(checkpoint=trained, images=images, out=out, overlays=False, views=views)
    rng = np.random.default_rng(0)
    for i in range(3):
        storage.write_atomic(
            f"{masks}/scene-{i}.png",
            encode_gray_png(rng.integers(0, 3, _mask(out, f"scene-{i}.png").shape, np.uint8)),
        )
    files_of = segray.evaluate(labels=out / "masks", masks=masks, out=tmp_path / "a")
    keys = {"checkpoint": trained, "images": images, "masks": masks, "allow_missing": True}
    network = segray.evaluate(**keys, views=views, out=tmp_path / "b")
    np.testing.assert_array_equal(network.confusion, files_of.confusion)
    plain = segray.evaluate(**keys, out=tmp_path / "c")
    assert not np.array_equal(plain.confusion, network.confusion)
    record = json.loads((tmp_path / "b" / "evaluation.json").read_text())
    assert (record["views"], record["precision"]) == (views, "fp32")


def test_other_views_or_masks_are_other_predictions(trained: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segray.predict(checkpoint=trained, images=images, out=out, overlays=False)
    before = files(out)
    for keys, shown in (
        ({"views": {"flip": True}}, r"views\.flip: False -> True"),
        ({"palette": True}, "palette: False -> True"),
        ({"precision": "bf16"}, "precision: fp32 -> bf16"),
    ):
        with pytest.raises(UserError, match=shown):
            segray.predict(checkpoint=trained, images=images, out=out, **keys)
    assert files(out) == before


def test_a_resumed_run_writes_the_same_bytes(trained: Path, images: Path, tmp_path: Path) -> None:
    keys = {"checkpoint": trained, "images": images, **ALL}
    segray.predict(out=tmp_path / "whole", **keys)
    out = tmp_path / "out"
    segray.predict(out=out, **{**keys, "images": images / "*-1.png"})
    # Killed before its rows were written, before a file was, and after all that.
    segray.predict(out=out, **keys)
    part = max((out / ".rows").iterdir())
    part.unlink()
    (out / "confidence" / "scene-1.png.png").unlink()
    (out / "coco.json").unlink()
    segray.predict(out=out, **keys)
    for name in ("predictions.csv", "coco.json", "class_names.txt"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for kind in ("masks", "confidence"):
        assert files(out / kind) == files(tmp_path / "whole" / kind)
    assert segray.predict(out=out, **keys).summary[1:2] == ("images      4: 3 ok, 1 error, 0 skipped",)


def test_what_is_wanted_later_is_made_later(trained: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    keys = {"checkpoint": trained, "images": images, "out": out}
    segray.predict(**keys, overlays=False)
    masks = files(out / "masks")
    segray.predict(**keys, **ALL)
    assert len(files(out / "confidence")) == 3
    assert COCO(str(out / "coco.json")).getImgIds() == [1, 2, 3]
    assert files(out / "masks") == masks
    # A file of all images stays; one that lacks some does not.
    segray.predict(**keys, overlays=False)
    assert (out / "coco.json").exists()
    (out / "masks" / "scene-0.png.png").unlink()
    segray.predict(**keys, overlays=False)
    assert not (out / "coco.json").exists()


def test_statistics_are_of_all_images(trained: Path, images: Path, tmp_path: Path) -> None:
    keys = {"checkpoint": trained, "images": images, "out": tmp_path / "out", "overlays": False}
    first = segray.predict(**keys)
    again = segray.predict(**keys)
    assert again.mean_confidence == first.mean_confidence
    table = [line for line in first.summary if line.endswith("%")]
    assert table == [line for line in again.summary if line.endswith("%")]


def test_moved_images_continue_the_same_predictions(trained: Path, images: Path, tmp_path: Path) -> None:
    first, out = tmp_path / "first", tmp_path / "out"
    shutil.copytree(images, first)
    keys = {"checkpoint": trained, "out": out, "overlays": False}
    segray.predict(images=first, **keys)
    before = files(out / "masks")
    moved = first.rename(tmp_path / "second")
    shutil.copy(images / "scene-0.png", moved / "scene-9.png")
    segray.predict(images=moved, **keys)
    assert files(out / "masks").items() > before.items()
    assert _table(out)["scene-9.png"]["status"] == "ok"
    third = shutil.copytree(moved, tmp_path / "third")
    data = bytearray((third / "scene-1.png").read_bytes())
    data[-30] ^= 1
    (third / "scene-1.png").write_bytes(data)
    with pytest.raises(UserError, match=r"of other images \(images: scene-1\.png in .*third is not the file"):
        segray.predict(images=third, **keys)


def test_precision_is_kept_on_another_device(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"checkpoint": trained, "images": images, "out": tmp_path / "out", "overlays": False}
    with monkeypatch.context() as other_device:
        other_device.setattr("segray.pipelines.engine.devices.best_precision", lambda address, grow: "bf16")
        segray.predict(**keys)
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())["made_with"]
    assert record["precision"] == "bf16"
    segray.predict(**keys)
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["made_with"] == record


def test_a_network_without_finite_output_is_no_result(trained: Path, images: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    network = segray.load_network(run)
    with torch.no_grad():
        next(network.module.decoder.parameters()).fill_(math.nan)
    with pytest.raises(UserError, match="output is not finite: its weights are damaged, or their training"):
        network.predict(images / "scene-0.png")
    network.precision = "fp16"
    with pytest.raises(UserError, match="numbers overflow in fp16; precision=bf16 or fp32 has room"):
        network.predict(images / "scene-0.png")


def test_statistics_of_a_large_map_are_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (40, 50), np.uint8)
    confidence = rng.random((40, 50), np.float32)
    whole = encoding.statistics(label, confidence, 5)
    monkeypatch.setattr(encoding, "_COUNTED", 7)
    found = encoding.statistics(label, confidence, 5)
    assert (found["class_ids"], found["class_pixels"]) == (whole["class_ids"], whole["class_pixels"])
    means = [confidence[label == i].mean() for i in range(4)]
    assert found["class_confidence"] == pytest.approx(means, abs=1e-5)
    assert found["mean_confidence"] == pytest.approx(confidence.mean(), abs=1e-5)


def _row(image_id: str, objects: str | None = None) -> ImageRow:
    return {
        "image_id": image_id,
        "sha256": "0" * 64,
        "width": 2,
        "height": 1,
        "class_ids": [0],
        "class_pixels": [2],
        "class_confidence": [0.5],
        "mean_confidence": 0.5,
        "objects": objects,
    }


def test_rows_are_written_in_parts_and_the_later_one_counts(tmp_path: Path) -> None:
    rows = ImageRows(str(tmp_path))
    rows.add([_row("a"), _row("b")])
    assert not (tmp_path / ".rows").exists()
    rows.flush()
    rows.add([_row(f"{i}") for i in range(300)])
    rows.add([_row("a", "[]")])
    rows.flush()
    again = ImageRows(str(tmp_path))
    assert len(list((tmp_path / ".rows").iterdir())) == 3
    assert again.get("a") == _row("a", "[]")
    assert again.get("none") is None
    assert (len(again.done(objects=False)), again.done(objects=True)) == (302, {"a"})
    assert len(again.sample(16)) == 16
    (tmp_path / ".rows" / "part-00000002.json").write_text('[{"image_id": 3}]')
    assert ImageRows(str(tmp_path)).done(objects=False) == {"a", "b"}
    assert len(list((tmp_path / ".rows").iterdir())) == 2
