"""A run on Ray Train leaves the process that started it as it was."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from segray.pipelines.engine.cluster import Resources
from segray.pipelines.training import trainer
from tests.pipelines.training.runs import config

WATCHER, INTERVAL = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
ONE = Resources(cpus=2, gpus=0)
TWO = Resources(cpus=4, gpus=0, nodes=2, node_cpus=(2, 2))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, str | None]]:
    """The two variables during each run, which takes SIGINT as Ray Train's does."""
    for name in (WATCHER, INTERVAL):
        monkeypatch.delenv(name, raising=False)
    during: list[tuple[str | None, str | None]] = []

    def run() -> SimpleNamespace:
        during.append((os.environ.get(WATCHER), os.environ.get(INTERVAL)))
        signal.signal(signal.SIGINT, lambda *_: None)
        return SimpleNamespace(return_value="stopped")

    monkeypatch.setattr(trainer, "torch_trainer", lambda *_: SimpleNamespace(fit=run))
    return during


@pytest.mark.parametrize(
    ("resources", "workers", "watched"), [(ONE, "1", "0"), (TWO, "1", "1"), (ONE, "1..2", "1")]
)
def test_machines_are_watched_where_there_are_several_or_may_be(
    tmp_path: Path, seen: list[object], resources: Resources, workers: str, watched: str
) -> None:
    run = config(tmp_path, tmp_path, tmp_path, f"train.workers={workers}", "train.num_cpus=1")
    assert trainer.fit(run, lambda: "", resources) == "stopped"
    assert seen == [(watched, "0.25")]


@pytest.mark.parametrize(("workers", "seconds"), [(1, 0.25), (16, 0.25), (64, 1.0), (512, 2.0)])
def test_ray_looks_at_few_workers_more_often_than_an_epoch_is_short(
    workers: int, seconds: float, tmp_path: Path, seen: list[tuple[str, str]]
) -> None:
    sizes = f"train.workers={workers}", f"train.batch={2 * workers}", "train.num_cpus=1"
    run = config(tmp_path / "run", tmp_path, tmp_path, *sizes)
    trainer.fit(run, lambda: "", Resources(cpus=workers, gpus=0))
    assert float(seen[0][1]) == seconds


def test_nothing_of_a_run_stays_in_the_process(tmp_path: Path, seen: list[object]) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = config(tmp_path, tmp_path, tmp_path, "train.num_cpus=1")
    trainer.fit(run, lambda: "", ONE)
    # The run of a process that this one starts, and the next run here.
    assert os.environ.keys().isdisjoint({WATCHER, INTERVAL})
    assert signal.getsignal(signal.SIGINT) is before
    trainer.fit(run, lambda: "", TWO)
    assert seen == [("0", "0.25"), ("1", "0.25")]


def test_a_run_beside_another_says_for_itself(
    tmp_path: Path, seen: list[tuple[str | None, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(tmp_path, tmp_path, tmp_path, "train.num_cpus=1")
    start = trainer.torch_trainer

    def start_another(*_: object) -> SimpleNamespace:
        monkeypatch.setattr(trainer, "torch_trainer", start)
        return SimpleNamespace(fit=lambda: SimpleNamespace(return_value=trainer.fit(run, lambda: "", TWO)))

    monkeypatch.setattr(trainer, "torch_trainer", start_another)
    assert trainer.fit(run, lambda: "", ONE) == "stopped"
    assert seen == [("1", "0.25")]
    assert os.environ.keys().isdisjoint({WATCHER, INTERVAL})


def test_what_the_user_sets_holds(
    tmp_path: Path, seen: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WATCHER, "0")
    monkeypatch.setenv(INTERVAL, "7")
    trainer.fit(config(tmp_path, tmp_path, tmp_path, "train.num_cpus=1"), lambda: "", TWO)
    assert seen == [("0", "7")]
    assert (os.environ[WATCHER], os.environ[INTERVAL]) == ("0", "7")
