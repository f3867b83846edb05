"""How `segray train` sets up Ray Train."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from segray.pipelines.training.run_folder import CHECKPOINTS
from segray.pipelines.training.trainer import scaling_config, torch_trainer
from tests.pipelines.training.runs import config

LOOK = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"


def set_up(folder: Path, workers: int) -> str:
    """Seconds between Ray's looks at so many workers."""
    from segray.pipelines.engine.cluster import Resources

    sizes = f"train.workers={workers}", f"train.batch={2 * workers}", "train.num_cpus=1"
    short = config(folder / "run", folder, folder, *sizes)
    workers_config = scaling_config(short, Resources(cpus=workers, gpus=0))
    trainer = torch_trainer(short, lambda: None, workers_config)
    assert trainer.run_config.name == CHECKPOINTS
    return os.environ[LOOK]


@pytest.mark.parametrize(("workers", "seconds"), [(1, 0.25), (16, 0.25), (64, 1.0), (512, 2.0)])
def test_ray_looks_at_few_workers_more_often_than_an_epoch_is_short(
    workers: int, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOOK, "")
    monkeypatch.delenv(LOOK)
    assert float(set_up(tmp_path, workers)) == seconds


def test_a_pace_that_was_given_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOOK, "7")
    assert set_up(tmp_path, 1) == "7"
