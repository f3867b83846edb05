"""What training records in TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

import struct
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.training import trackers
from segray.pipelines.training.history import HistoryEntry
from segray.pipelines.training.trackers import PACKAGES, Trackers, check_trackers
from tests.pipelines.training.runs import config

ROOT = Path(__file__).parents[3]
CLASSES = ("background", "tree", "sun")


def run_config(folder: Path, name: str) -> TrainConfig:
    return config(folder / "run", folder / "labels", folder / "book", f"trackers={name}")


def entry(step: int, loss: float) -> HistoryEntry:
    fields = {"step": step, "loss": loss, "iou": [0.5, None, 0.25], "confusion": [[1]]}
    return cast("HistoryEntry", fields)


def track(settings: TrainConfig, *entries: HistoryEntry) -> None:
    with Trackers(settings, settings.out) as trackers:
        for item in entries:
            trackers.add(item, CLASSES)


def test_tensorboard_gets_every_metric_and_each_class(tmp_path: Path) -> None:
    settings = run_config(tmp_path, "tensorboard")
    track(settings, entry(5, 0.75), entry(9, 0.5))
    values = {(e.step, v.tag): v.simple_value for e in events(Path(settings.out)) for v in e.summary.value}
    values = {key: value for key, value in values.items() if "config" not in key[1]}
    curves = {
        tag: [values.pop((step, tag)) for step in (5, 9)]
        for tag in ("step", "loss", "iou/background", "iou/sun")
    }
    assert (curves["step"], curves["loss"]) == ([5, 9], [0.75, 0.5])
    assert (curves["iou/background"], curves["iou/sun"]) == ([0.5, 0.5], [0.25, 0.25])
    assert values == {}


def events(out: Path) -> list[Any]:
    """The records of the one event file: length, its checksum, protobuf, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (out / "tensorboard").iterdir()
    data, records = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        records.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return records


def test_mlflow_has_one_run_in_the_folder_though_training_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is an extra")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = run_config(tmp_path, "mlflow")
    track(settings, entry(5, 0.75))
    track(settings, entry(9, 0.5))
    client = mlflow.MlflowClient(f"sqlite:///{settings.out}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("segray").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [
        (5, 0.75),
        (9, 0.5),
    ]
    assert run.data.metrics["iou.sun"] == 0.25
    assert run.data.params["network.name"] == "builtin"
    assert not (tmp_path / "mlflow.db").exists()


def test_weights_and_biases_resumes_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is an extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = run_config(tmp_path, "wandb")
    track(settings, entry(5, 0.75))
    first = (Path(settings.out) / "wandb" / "run-id").read_text()
    track(settings, entry(9, 0.5))
    runs = [path.name for path in (Path(settings.out) / "wandb" / "wandb").glob("offline-run-*")]
    assert runs
    assert all(name.endswith(first) for name in runs)


def test_nothing_is_tracked_without_a_folder(tmp_path: Path) -> None:
    with Trackers(run_config(tmp_path, "tensorboard"), None) as none:
        none.add(entry(5, 0.75), CLASSES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_reported_before_anything_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf'trackers={name} needs {PACKAGES[name]}: pip install "segray'):
        check_trackers([name])
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [line.partition(">")[0] for line in extras[name]] == [PACKAGES[name]]
