"""`segray predict` from a folder to masks and overlays; the stages alone, and on the Ray of the session."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from segray.models.segmenters.base import Segmenter
from segray.models.segmenters.inference import Window
from segray.pipelines.annotation.stages.read import ReadImages
from segray.pipelines.commands import predict
from segray.pipelines.commands.evaluate import run as evaluate_run
from segray.pipelines.config.commands.evaluate import EvaluateConfig
from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.config.loading import load
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.engine.single_process import FEW
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import decode_gray_png, encode_gray_png
from segray.pipelines.io.pending import PENDING, PENDING_COLUMNS
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.io.sources import list_images
from segray.pipelines.prediction import local
from segray.pipelines.prediction.output import begin, finish, made_with
from segray.pipelines.prediction.prepare import prepare
from segray.pipelines.prediction.result import Outcome, PredictResult
from segray.pipelines.prediction.rows import ImageRows
from segray.pipelines.prediction.stages import (
    ROW_SCHEMA,
    PredictImages,
    WriteMasks,
)
from segray.pipelines.training.trained import load_network, predict_label
from tests.faults.invariant import files
from tests.pipelines import object_stores
from tests.pipelines.plain_runs import PLAN, draw_scenes
from tests.pipelines.ray_actors import left_over
from tests.pipelines.trained_network import CLASSES, write_run

on_ray = pytest.mark.usefixtures("ray_session")

GUARD = Guard(Ledger(), max_tries=3)
LONG = "n" * 251 + ".png"
GOOD = ("deep/scene-2.png", "scene-0.jpg", "scene-0.png", "scene-1.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures that differ in their suffix only, one in a folder, one broken, one of a long name."""
    folder = draw_scenes(tmp_path_factory.mktemp("predict") / "images", 3)
    (folder / "deep").mkdir()
    (folder / "scene-2.png").rename(folder / "deep" / "scene-2.png")
    Image.open(folder / "scene-1.png").convert("RGB").save(folder / "scene-0.jpg")
    shutil.copy(folder / "scene-1.png", folder / LONG)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def _config(trained: Path | str, images: Path | str, out: Path | str, *words: str) -> PredictConfig:
    return load(PredictConfig, None, [f"checkpoint={trained}", f"images={images}", f"out={out}", *words])


def _predict_plainly(config: PredictConfig) -> tuple[int, Outcome]:
    """What the graph does with the images that are left, without Ray: how many those are, and the outcome."""
    job, record = prepare(config, None)
    rows = ImageRows(job.out)
    _, n_todo = begin(job, record, list_images(config.images), rows)
    outcome = Outcome()
    if n_todo:
        data = pa.BufferReader(storage.read_bytes(storage.join(job.out, PENDING)))
        todo = pq.read_table(data, columns=PENDING_COLUMNS)
        read = ReadImages(job.options, False, GUARD)(todo)
        rows.add(outcome.add(WriteMasks(job, GUARD)(PredictImages(job, PLAN, GUARD)(read))))
        rows.flush()
    finish(job, rows, outcome.bad)
    return n_todo, outcome


def _mask(out: Path, image_id: str) -> NDArray[np.uint8]:
    return decode_gray_png((out / "masks" / f"{image_id}.png").read_bytes())


def _table(data: bytes) -> dict[str, tuple[str, str]]:
    rows = csv.DictReader(io.StringIO(data.decode()))
    return {row["image_id"]: (row["status"], row["error"]) for row in rows}


def _masks(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(out).items() if name.startswith("masks/")}


# A whole run


@pytest.mark.ray
@on_ray
def test_a_run_from_beginning_to_end(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    config = _config(trained, images, out, "workers=2")
    predict.run(config)
    assert left_over() == []
    shown = capsys.readouterr()
    table = _table((out / "predictions.csv").read_bytes())
    assert list(table) == sorted([*GOOD, "bad.png", LONG])
    assert {name for name, row in table.items() if row == ("ok", "")} == set(GOOD)
    assert table["bad.png"] == ("error", "not an image")
    assert table[LONG][1].endswith("(File name too long)")
    network, _ = load_network(str(trained))
    for name in GOOD:
        with Image.open(images / name) as image, Image.open(out / "overlays" / f"{name}.jpg") as picture:
            pixels = np.array(image.convert("RGB"))
            assert (picture.format, picture.size) == ("JPEG", image.size)
        assert np.array_equal(_mask(out, name), predict_label(network, pixels))
    assert (out / "class_names.txt").read_text() == "background\ncat\ndog\n"
    assert "images      6: 4 ok, 2 error, 0 skipped" in shown.out
    assert "this run    6 images" in shown.out
    assert str(out / "predictions.csv") in shown.out
    assert f"6 images, 6 to do, into {out}" in shown.err
    assert "  error   bad.png: not an image" in shown.err
    shares = [
        line.split()[1] for line in shown.out.splitlines() if line.split()[:1] in [[c] for c in CLASSES]
    ]
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.05)


def test_few_images_are_predicted_without_a_cluster(
    trained: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    config = _config(trained, images, tmp_path / "out")
    assert local.suits(config, 6)
    assert not local.suits(config, FEW + 1)
    assert not local.suits(_config(trained, images, tmp_path / "out", "workers=2"), 6)
    predict.run(config)
    table = _table((tmp_path / "out" / "predictions.csv").read_bytes())
    assert {name for name, row in table.items() if row == ("ok", "")} == set(GOOD)
    assert table["bad.png"] == ("error", "not an image")
    network, _ = load_network(str(trained))
    for name in GOOD:
        with Image.open(images / name) as image:
            pixels = np.array(image.convert("RGB"))
        assert np.array_equal(_mask(tmp_path / "out", name), predict_label(network, pixels))
    assert "this run    6 images" in capsys.readouterr().out
    assert not (tmp_path / "out" / ".in-process").exists()


def report(images: int, outcome: Outcome) -> None:
    """What `predict.run` does with the bad images of a run."""
    result = PredictResult("out", images, outcome.bad, None, 0.0, ())
    predict._report_bad_images(result)
    predict.check_bad_images(result)


def test_nothing_but_bad_images_exit_with_3(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_bytes(b"")
    _, outcome = _predict_plainly(_config(trained, tmp_path / "images", tmp_path / "out"))
    table = _table((tmp_path / "out" / "predictions.csv").read_bytes())
    assert table == {"bad.png": ("error", "not an image (empty file)")}
    with pytest.raises(UserError, match="not one of 1 images could be labelled") as caught:
        report(1, outcome)
    assert caught.value.exit_code == 3
    assert capsys.readouterr().err == "  error   bad.png: not an image (empty file)\n"
    report(2, outcome)


def test_predictions_are_evaluated_as_they_are_named(trained: Path, images: Path, tmp_path: Path) -> None:
    out, masks = tmp_path / "out", tmp_path / "masks"
    _predict_plainly(_config(trained, images, out))
    rng = np.random.default_rng(0)
    for name in GOOD:
        # The two that differ in their suffix only need whole names; the others are named as most masks are.
        target = masks / (f"{name}.png" if "scene-0" in name else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode_gray_png(rng.integers(0, 3, _mask(out, name).shape, np.uint8)))
    evaluate_run(EvaluateConfig(labels=str(out / "masks"), masks=str(masks), out=str(tmp_path / "a")))
    evaluate_run(
        EvaluateConfig(
            checkpoint=str(trained),
            images=str(images),
            masks=str(masks),
            out=str(tmp_path / "b"),
            allow_missing=True,
        )
    )
    by_labels, by_network = (json.loads((tmp_path / n / "evaluation.json").read_text()) for n in "ab")
    assert by_labels["n_images"] == by_network["n_images"] == 4
    assert by_labels["confusion"] == by_network["confusion"]


# Going on


def test_only_what_has_no_mask_is_done_again(trained: Path, images: Path, tmp_path: Path) -> None:
    folder, out = Path(shutil.copytree(images, tmp_path / "images")), tmp_path / "out"
    config = _config(trained, folder, out)
    assert _predict_plainly(config)[0] == 6
    whole, table = _masks(out), (out / "predictions.csv").read_bytes()
    (out / "masks" / "scene-0.jpg.png").unlink()
    (out / "overlays" / "deep" / "scene-2.png.jpg").unlink()
    before = {name: (out / name).stat().st_mtime_ns for name in whole if (out / name).exists()}
    n_todo, outcome = _predict_plainly(config)
    assert n_todo == 4
    assert outcome.bad.keys() == {"bad.png", LONG}
    assert (_masks(out), (out / "predictions.csv").read_bytes()) == (whole, table)
    again = {name for name, time in before.items() if (out / name).stat().st_mtime_ns != time}
    assert again == {"masks/deep/scene-2.png.png"}
    shutil.copy(folder / "scene-1.png", folder / "scene-0.png")
    assert _predict_plainly(config)[0] == 3
    assert _masks(out)["masks/scene-0.png.png"] == whole["masks/scene-1.png.png"]


def test_a_finished_run_has_nothing_to_do(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(trained, images / "scene-*.png", tmp_path / "out", "overlays=false")
    assert _predict_plainly(config)[0] == 2
    assert not (tmp_path / "out" / "overlays").exists()
    before = _masks(tmp_path / "out")
    predict.run(config)
    shown = capsys.readouterr()
    assert "2 images, nothing to do in" in shown.err
    assert "images      2: 2 ok, 0 error, 0 skipped" in shown.out
    assert _masks(tmp_path / "out") == before
    assert _predict_plainly(_config(trained, images / "scene-*.png", tmp_path / "out"))[0] == 2


def test_a_picture_book_in_an_object_store(trained: Path, images: Path, tmp_path: Path) -> None:
    assert object_stores.FlakyFileSystem.protocol == "flaky"
    source, out = "flaky://bucket/images", "flaky://bucket/out"
    for name in GOOD:
        storage.write_atomic(f"{source}/{name}", (images / name).read_bytes())
    config = _config(trained, source, out)
    assert _predict_plainly(config)[0] == 4
    _predict_plainly(_config(trained, images, tmp_path / "out"))
    for name in GOOD:
        data = storage.read_bytes(f"{out}/masks/{name}.png")
        assert np.array_equal(decode_gray_png(data), _mask(tmp_path / "out", name))
    assert set(_table(storage.read_bytes(f"{out}/predictions.csv")).values()) == {("ok", "")}
    storage.delete(f"{out}/masks/scene-1.png.png")
    job, record = prepare(config, None)
    assert begin(job, record, list_images(source), ImageRows(job.out)) == (4, 1)


# What is refused


def _assert_refused(config: PredictConfig, text: str, code: int = 2) -> None:
    with pytest.raises(UserError, match=text) as caught:
        predict.run(config)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (code, False)


def test_other_predictions_are_left_alone(trained: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _predict_plainly(_config(trained, images, out))
    before = files(out)
    other = write_run(tmp_path / "other", seed=1)
    same = shutil.copytree(trained, tmp_path / "same")
    _assert_refused(
        _config(other, images, out), r"made with other settings \(checkpoint: \w{12}\.\.\. -> \w{12}"
    )
    _assert_refused(
        _config(trained, images, out, "window=64"),
        r"with other settings \(window: None -> 64\); give another out=DIR",
    )
    _assert_refused(
        _config(trained, images / "deep", out),
        r"of other images \(images: 6 of 6 images are not in .*deep, such as bad\.png",
    )
    with RunLock(str(out)):
        _assert_refused(_config(same, images, out), "is in use by pid", 4)
    assert files(out) == before


def test_bad_input_leaves_no_output(trained: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _assert_refused(_config(tmp_path, images, out), "no checkpoint there")
    _assert_refused(_config(trained, tmp_path / "none", out), "images: no such path")
    assert not out.exists()
    _assert_refused(_config(trained, images, images), r"holds something else \(.*\); allowed: a new or empty")


@pytest.mark.parametrize("text", ["{", '{"made_with": 3}'])
def test_a_damaged_record_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "prediction.json").write_text(text)
    with pytest.raises(UserError, match=r"prediction\.json is damaged; give another out=DIR"):
        made_with(str(tmp_path))


def test_a_window_is_none_or_large_enough(trained: Path, images: Path, tmp_path: Path) -> None:
    assert prepare(_config(trained, images, tmp_path, "window=0"), None)[0].inference.window.whole is None
    assert prepare(_config(trained, images, tmp_path, "window=32"), None)[0].inference.window == Window(
        32, whole=0
    )
    with pytest.raises(UserError, match=r"^window: 31 is out of range \(allowed: 0, or at least 32\)$"):
        _config(trained, images, tmp_path, "window=31")


def test_a_large_image_is_predicted_in_windows_unless_it_is_to_be_whole(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(local, "suits", lambda config, n: True)
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (1700, 1300)).save(folder / "large.png")
    sizes, forward = [], Segmenter.forward

    def recorded(self: Segmenter, images: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(images.shape[-2:]))
        return forward(self, images)

    monkeypatch.setattr(Segmenter, "forward", recorded)
    predict.run(_config(trained, folder, tmp_path / "out", "overlays=false"))
    assert len(sizes) == 12
    assert max(max(size) for size in sizes) < 640 + 32
    assert _mask(tmp_path / "out", "large.png").shape == (1300, 1700)
    sizes.clear()
    predict.run(_config(trained, folder, tmp_path / "whole", "overlays=false", "window=0"))
    assert sizes == [(1300, 1700)]


def test_a_lack_of_memory_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome()
    row = {"image_id": "a.png", "status": "ok", "class_ids": [0], "class_pixels": [72]}
    for name in ("a.png", "b.png"):
        noted = {**row, "image_id": name, "error": None, "note": f"not enough memory for {name}"}
        outcome.add(pa.Table.from_pylist([noted], schema=ROW_SCHEMA))
    assert capsys.readouterr().err == "not enough memory for a.png\n"
    assert (outcome.images, outcome.notes, outcome.bad) == (2, 2, {})
