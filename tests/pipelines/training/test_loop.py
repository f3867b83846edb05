from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from segray.models.semi.methods import METHODS
from segray.models.semi.student import Logits
from segray.pipelines.engine.compiling import CannotCompileError
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.training.checkpoints import STATE, read_state
from segray.pipelines.training.data.sampler import StepBatch
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.history import HistoryEntry
from segray.pipelines.training.meter import DivergedError, progress_line
from segray.pipelines.training.run_folder import RunFolder
from segray.pipelines.training.step import Objective, StepMetrics
from tests.pipelines.training.runs import book, config, curve, trainer

Run = tuple[Path, list[HistoryEntry]]
"""The folder of a run, and its history."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return book(tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def uninterrupted(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return folder, trainer(config(folder, *data), folder).run()


def test_a_run_validates_each_epoch_and_learns(uninterrupted: Run) -> None:
    _, history = uninterrupted
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[0]["lr"] > history[-1]["lr"] > 0
    for entry in history:
        assert entry["zero_shot_miou"] == history[0]["zero_shot_miou"]
        assert entry["from_model"] is not None
        assert 0 <= entry["from_model"] <= 1
        assert len(entry["iou"]) == 10


@pytest.mark.parametrize("count", [1, 2])
def test_a_resumed_run_ends_where_an_uninterrupted_run_does(
    data: tuple[Path, Path], uninterrupted: Run, tmp_path: Path, count: int
) -> None:
    folder, history = uninterrupted
    for checkpoint in sorted(folder.glob("checkpoint_*"))[:count]:
        shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    resumed = trainer(config(tmp_path, *data), tmp_path)
    assert len(resumed.progress.history) == count
    assert curve(resumed.run()) == curve(history)


def test_a_cut_checkpoint_costs_an_epoch_and_nothing_else(
    data: tuple[Path, Path], uninterrupted: Run, tmp_path: Path
) -> None:
    folder, history = uninterrupted
    for checkpoint in sorted(folder.glob("checkpoint_*"))[:2]:
        shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    newest = max(tmp_path.glob("checkpoint_*")) / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    resumed = trainer(config(tmp_path, *data), tmp_path)
    assert len(resumed.progress.history) == 1
    assert curve(resumed.run()) == curve(history)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_saves_the_network_that_predicts(
    data: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    # The label set of these tests has neither embeddings nor segments.
    words = [f"method={method}", "train.epochs=1", "data.calibrate=false", "pseudo.segments=false"]
    run = trainer(config(tmp_path, *data, *words), tmp_path)
    (entry,) = run.run()
    assert torch.isfinite(torch.tensor(entry["loss"]))
    assert (entry["from_model"] is None) == (method == "supervised")
    assert (run.objective.teacher is not None) == method.endswith(("_v2", "_v3"))
    files = {path.name for path in next(tmp_path.glob("checkpoint_*")).iterdir()}
    assert ("teacher.safetensors" in files) == method.endswith(("_v2", "_v3"))


def test_an_encoder_of_learned_positions_predicts_in_windows_of_the_crop(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = []
    for name, overrides in (("crop", []), ("whole", ["train.window=0"]), ("own", ["train.window=40"])):
        folder = tmp_path / name
        run = trainer(config(folder, *data, "train.epochs=1", *overrides), folder)
        sides.append(run.window)
        if name == "crop":
            run.run()
    assert sides == [32, 0, 40]
    (checkpoint,) = (tmp_path / "crop").glob("checkpoint_*")
    assert read_state(str(checkpoint))["window"] == 32
    # An earlier version began this run, and had validated whole images.
    state = json.loads((checkpoint / STATE).read_text())
    (checkpoint / STATE).write_text(json.dumps(state | {"window": None, "step": 0, "history": []}))
    assert trainer(config(tmp_path / "crop", *data, "train.epochs=1"), tmp_path / "crop").window is None
    monkeypatch.setattr(type(run.network), "crop_windows", False)
    folder = tmp_path / "default"
    assert trainer(config(folder, *data), folder).window is None


def test_parts_of_a_batch_add_up_to_the_batch(data: tuple[Path, Path], tmp_path: Path) -> None:
    overrides = [
        "train.batch=4",
        "train.epochs=1",
        "train.optimiser=sgd",
        "augment.cutmix=0",
        "train.lr=0.01",
    ]
    whole = trainer(config(tmp_path, *data, *overrides), tmp_path / "a").run()
    parts = trainer(config(tmp_path, *data, *overrides, "train.accumulate=2"), tmp_path / "b").run()
    assert parts[0]["loss"] == pytest.approx(whole[0]["loss"], rel=0.02)
    assert parts[0]["accuracy"] == pytest.approx(whole[0]["accuracy"], abs=0.02)


@pytest.mark.slow
def test_a_compiled_network_learns_what_the_plain_one_does(
    data: tuple[Path, Path],
    uninterrupted: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Inductor, the default, takes minutes for a few steps and wants a C++ compiler; this traces as much.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = trainer(config(tmp_path, *data, "train.compile=true"), tmp_path).run()
    for ours, plain in zip(compiled, uninterrupted[1], strict=True):
        assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    files = sorted(path.name for path in next(tmp_path.glob("checkpoint_*")).iterdir())
    assert files == sorted(path.name for path in next(uninterrupted[0].glob("checkpoint_*")).iterdir())


def test_a_network_that_cannot_be_compiled_is_reported_in_one_line(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found\nat all")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    run = trainer(config(tmp_path, *data, "train.compile=true"), tmp_path)
    with pytest.raises(CannotCompileError) as caught:
        run.run()
    problem = "train.compile=true: No working C++ compiler found; train.compile=false needs no compiler"
    assert str(caught.value) == problem


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(config(tmp_path, *data), tmp_path)
    plain = Objective.__call__

    def poisoned(self: Objective, student: Callable[..., Logits], batch: StepBatch) -> StepMetrics:
        metrics = plain(self, student, batch)
        if batch.step == 5:
            metrics.loss = metrics.loss * float("nan")
        return metrics

    monkeypatch.setattr(Objective, "__call__", poisoned)
    with pytest.raises(DivergedError, match="from step 5 on"):
        run.run()
    assert len(list(tmp_path.glob("checkpoint_*"))) == 2


def test_the_learning_rate_is_scaled_by_the_batch_and_decays(data: tuple[Path, Path], tmp_path: Path) -> None:
    small = trainer(config(tmp_path, *data), tmp_path)
    large = trainer(config(tmp_path, *data, "train.batch=4"), tmp_path)
    assert large.learning_rate(0) == 2 * small.learning_rate(0) == pytest.approx(0.0005 * 4 / 8)
    half = small.learning_rate(small.total // 2)
    assert half == pytest.approx(small.learning_rate(0) * (1 - (small.total // 2) / small.total) ** 0.9)


def test_each_entry_has_the_pixels_of_the_labelled_masks_and_the_share_that_is_ignored(
    uninterrupted: Run, data: tuple[Path, Path]
) -> None:
    folder, history = uninterrupted
    opened = open_data(config(folder, *data).data, 0)
    for entry in history:
        assert entry["labelled_pixels"] == list(opened.labelled_pixels.pixels)
        assert sum(entry["labelled_pixels"]) == 3 * 48 * 48
        assert entry["ignored"] == 0


def test_validation_masks_of_one_class_give_no_result(data: tuple[Path, Path], tmp_path: Path) -> None:
    labels, masks = book(tmp_path / "book")
    for path in (masks / "masks").glob("**/*.png"):
        path.write_bytes(encode_gray_png(np.zeros((48, 48), np.uint8)))
    run = RunFolder(config(tmp_path / "run", labels, masks, "train.epochs=1"))
    run.begin(open_data(run.config.data, 0))
    (entry,) = trainer(run.config, tmp_path / "run" / "checkpoints").run()
    run.export()
    assert entry["miou"] is None
    assert "mIoU - " in progress_line(entry, 1, 0.0)
    shown = str(run.result())
    assert "best epoch              1      -" in shown
    assert "no result: mIoU needs validation masks of two classes or more" in shown
    assert "not in the validation masks: tree, house" in shown
