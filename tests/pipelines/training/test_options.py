"""Class weights, OHEM and early stopping in a run: off by default, checked, and what they change."""

from __future__ import annotations

from pathlib import Path

import pytest

from segray.pipelines.commands import train
from segray.pipelines.config.commands.train import LossConfig
from segray.pipelines.errors import UserError
from segray.pipelines.training.build import class_weights
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.history import has_stopped
from segray.pipelines.training.run_folder import RunFolder
from segray.pipelines.understood import PixelCounts
from tests.pipelines.training.runs import book, config, curve, trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return book(tmp_path_factory.mktemp("book"))


def losses(data: tuple[Path, Path], folder: Path, *overrides: str) -> list[tuple[float, float | None]]:
    return curve(trainer(config(folder, *data, "train.epochs=1", *overrides), folder).run())


def test_each_option_changes_the_loss_and_is_off_by_default(data: tuple[Path, Path], tmp_path: Path) -> None:
    ones = ",".join(["1"] * 10)
    plain = losses(data, tmp_path / "plain")
    same = losses(data, tmp_path / "same", f"loss.class_weights={ones}", "loss.ohem=1")
    assert same[0][0] == pytest.approx(plain[0][0], rel=1e-4)
    assert losses(data, tmp_path / "hard", "loss.ohem=0.1")[0][0] > plain[0][0]
    balanced = losses(data, tmp_path / "balanced", "loss.class_weights=balanced")
    assert balanced[0][0] != pytest.approx(plain[0][0], rel=1e-3)


def test_weights_are_one_per_class(data: tuple[Path, Path], tmp_path: Path) -> None:
    run = config(tmp_path, *data, "loss.class_weights=1,2")
    line = r"^loss\.class_weights: 2 weights, the data has 10 classes, from id 0$"
    with pytest.raises(UserError, match=line):
        train.check(run, open_data(run.data, 0))
    counts = PixelCounts(1, (30, 10), 5)
    assert class_weights(LossConfig(), counts) is None
    assert class_weights(LossConfig(class_weights="0.5,2"), counts) == [0.5, 2]
    assert class_weights(LossConfig(class_weights="balanced"), counts) == pytest.approx([40 / 60, 2])


@pytest.mark.parametrize("text", ["", "a", "1,-1", "0,0", "1,nan", "1,inf", "inverse"])
def test_weights_that_are_none_are_refused(data: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"^loss\.class_weights"):
        config(tmp_path, *data, f"loss.class_weights={text}")


def test_patience_counts_validations_without_a_better_one() -> None:
    assert not has_stopped([], 1)
    assert not has_stopped([0.1, 0.2], 1)
    assert has_stopped([0.1, 0.2, 0.2], 1)
    assert not has_stopped([0.3, 0.2, 0.25], 3)
    assert has_stopped([0.3, 0.2, 0.25, 0.3], 3)


def test_a_run_stops_early_and_is_finished(data: tuple[Path, Path], tmp_path: Path) -> None:
    # A learning rate of next to nothing: no validation is better than the first.
    overrides = ["train.patience=2", "train.epochs=9", "train.lr=1e-12"]
    run = RunFolder(config(tmp_path / "run", *data, *overrides))
    run.begin(open_data(run.config.data, 0))
    history = trainer(run.config, tmp_path / "run" / "checkpoints").run()
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert run.finished()
    assert len(trainer(run.config, tmp_path / "run" / "checkpoints").run()) == 3
    run.export()
    assert (run.result().best_epoch, run.result().last_epoch) == (1, 3)


def test_patience_needs_validation(data: tuple[Path, Path], tmp_path: Path) -> None:
    run = config(tmp_path, *data, "train.patience=2", "data.validation=none")
    with pytest.raises(UserError, match=r"^train\.patience needs validation images"):
        train.check(run, open_data(run.data, 0))
