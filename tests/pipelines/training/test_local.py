"""Training in the command's own process: when, and that nothing else differs from a run of Ray Train."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path

import pytest
import torch

from segray.pipelines.commands import train
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.training import local, loop
from segray.pipelines.training.build import build_network
from segray.pipelines.training.checkpoints import STATE
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.session import LocalSession, Metrics
from tests.pipelines.ray_actors import left_over
from tests.pipelines.training.runs import book, config

MARK = ".in-process"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(label set, data set); never changed."""
    return book(tmp_path_factory.mktemp("local") / "book", n=8)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process were connected to no cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def weights(out: Path, which: str = "last") -> dict[str, bytes]:
    """All files of an exported checkpoint but its state, whose history has times."""
    return {path.name: path.read_bytes() for path in (out / which).iterdir() if path.name != STATE}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("overrides", "here"),
    [
        ((), True),
        (("train.workers=2",), False),
        (("train.num_cpus=1",), False),
        (("address=auto",), False),
        (("grow.cpus=2",), False),
    ],
)
def test_one_worker_without_wishes_needs_no_cluster(
    tmp_path: Path, data: tuple[Path, Path], overrides: tuple[str, ...], here: bool
) -> None:
    run = config(tmp_path / "run", *data, *overrides)
    assert local.suits(run) is here
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MARK).touch()
    assert not local.suits(run)


@pytest.mark.usefixtures("alone")
def test_gpus_are_given_to_workers(
    tmp_path: Path, data: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not local.suits(config(tmp_path / "run", *data))


class StopsSession(LocalSession):
    """Stops the run after its first checkpoint."""

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        super().report(metrics, checkpoint)
        raise KeyboardInterrupt


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_weights_are_those_of_a_run_of_ray_train(
    tmp_path: Path, data: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a run begins in one way and is resumed in the other."""

    def run(name: str, *, here: bool) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr(local, "suits", lambda config: here)
            train.execute(config(tmp_path / name, *data, "train.num_cpus=1"))
        return tmp_path / name

    before = signal.getsignal(signal.SIGINT)
    expected = weights(run("ray", here=False))
    assert left_over() == []
    assert signal.getsignal(signal.SIGINT) is before
    assert weights(run("here", here=True)) == expected
    with monkeypatch.context() as patch:
        patch.setattr("segray.pipelines.training.session.LocalSession", StopsSession)
        with pytest.raises(KeyboardInterrupt):
            run("both", here=True)
    assert len(list((tmp_path / "both").glob("checkpoints/checkpoint_*"))) == 1
    assert weights(run("both", here=False)) == expected


@pytest.mark.usefixtures("alone")
def test_a_run_here_is_resumed_and_finished(
    tmp_path: Path,
    data: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    plain = train.execute(config(tmp_path / "plain", *data))
    assert "epoch 3/3" in capsys.readouterr().err
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("segray.pipelines.training.session.LocalSession", StopsSession)
        with pytest.raises(KeyboardInterrupt):
            train.execute(config(out, *data))
    assert not (out / MARK).exists()
    assert "epoch 1/3" in capsys.readouterr().err
    result = train.execute(config(out, *data))
    assert weights(out) == weights(tmp_path / "plain")
    assert (result.best_miou, result.last_epoch) == (plain.best_miou, 3)
    assert "epoch 1/3" not in capsys.readouterr().err
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("failures", [2, 4])
def test_a_failure_is_recovered_from_as_often_as_allowed(
    tmp_path: Path,
    data: tuple[Path, Path],
    failures: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = list[int]()

    def fails(*arguments: object) -> object:
        calls.append(1)
        if len(calls) <= failures:
            raise OSError("the disk is gone")
        return build_network(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "build_network", fails)
    run = config(tmp_path / "run", *data, "train.max_failures=3", "train.epochs=1")
    with caplog.at_level(logging.WARNING):
        if failures > run.train.max_failures:
            with pytest.raises(OSError, match="the disk is gone"):
                train.execute(run)
        else:
            train.execute(run)
    line = "OSError: the disk is gone; resuming from the newest checkpoint"
    assert caplog.text.count(line) == min(3, failures)


@pytest.mark.usefixtures("alone")
def test_what_the_user_has_to_repair_is_not_tried_again(
    tmp_path: Path, data: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[int]()

    def refuses(*_: object) -> None:
        calls.append(1)
        raise UserError("disk full")

    monkeypatch.setattr(loop, "build_network", refuses)
    with pytest.raises(UserError, match="disk full"):
        train.execute(config(tmp_path / "run", *data))
    assert len(calls) == 1


def scored(folder: Path, name: str, miou: float) -> Path:
    checkpoint = folder / name
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").touch()
    state = {"history": [{"miou": miou}], "sha256": {"model.safetensors": ""}}
    (checkpoint / STATE).write_text(json.dumps(state))
    return checkpoint


def test_the_best_three_and_the_newest_checkpoint_are_kept(tmp_path: Path) -> None:
    folder, made = tmp_path / "checkpoints", tmp_path / "made"
    session = LocalSession(str(folder))
    for number, miou in enumerate((0.1, 0.9, 0.7, 0.2, 0.8, 0.3)):
        session.report({"step": 1.0, "miou": miou}, scored(made, str(number), miou))
    states = [(folder / uri / STATE).read_text() for uri in session.checkpoints()]
    assert [text.partition("miou")[2][3:6] for text in states] == ["0.3", "0.8", "0.7", "0.9"]


def test_checkpoints_that_ray_train_relies_on_stay(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for number in range(6):
        scored(folder, f"checkpoint_2026-01-0{number + 1}", number / 10)
    snapshot = {"checkpoint_dir_name": "checkpoint_2026-01-02"}
    (folder / "checkpoint_manager_snapshot.json").write_text(json.dumps(snapshot))
    LocalSession(str(folder)).report({"miou": 0.0}, scored(tmp_path / "made", "new", 0.0))
    kept = sorted(path.name for path in folder.glob("checkpoint_2026-01*"))
    assert kept == [f"checkpoint_2026-01-0{day}" for day in (2, 4, 5, 6)]


def test_a_run_on_a_cluster_takes_the_mark_of_a_death_away(
    tmp_path: Path, data: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / MARK).touch()
    done = list[TrainConfig]()
    monkeypatch.setattr(train, "_fit_on_cluster", lambda config, _: done.append(config))
    run = config(out, *data)
    assert train._fit(run, open_data(run.data, run.seed)) is None
    assert len(done) == 1
    assert not (out / MARK).exists()
