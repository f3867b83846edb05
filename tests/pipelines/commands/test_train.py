"""`segray train`: its checks before Ray starts, and its workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segray.models.weights import WeightsError
from segray.pipelines.commands import train
from segray.pipelines.engine.cluster import Resources
from segray.pipelines.errors import UserError
from segray.pipelines.training import loop, session
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.log_collector import RemoteFail, RemoteFailure, RemoteWrite
from segray.pipelines.training.trainer import WorkerInputs, scaling_config, train_worker
from tests.pipelines.training.runs import book, config


def test_weights_of_another_network_are_refused_before_ray_starts(tmp_path: Path) -> None:
    labels, root = book(tmp_path / "book", n=8)
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    overrides = ["network.pretrained=true", f"network.weights={other}"]
    run = config(tmp_path / "run", labels, root, *overrides)
    data = open_data(run.data, run.seed)
    with pytest.raises(UserError, match=r"^network: .*other\.safetensors does not fit the encoder"):
        train.check(run, data)
    train.check(config(tmp_path / "run", labels, root, "network.pretrained=true"), data)


def test_weights_that_a_worker_cannot_load_are_reported_without_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise WeightsError("cannot read encoder.safetensors")

    labels, root = book(tmp_path / "book", n=8)
    run = config(tmp_path / "run", labels, root)
    monkeypatch.setattr(session, "RaySession", lambda *_, **__: session.LocalSession(str(tmp_path)))
    monkeypatch.setattr(loop, "build_network", fail)
    inputs = WorkerInputs(run, open_data(run.data, run.seed), LogCollectorHandle(), None)
    failure = train_worker(inputs)
    assert failure is not None
    assert (failure.message, failure.exit_code) == ("network: cannot read encoder.safetensors", 2)


class LogCollectorHandle:
    """Stands in for the handle of the actor; nothing is written to it."""

    @property
    def write(self) -> RemoteWrite:
        raise AssertionError

    @property
    def note(self) -> RemoteWrite:
        raise AssertionError

    @property
    def fail(self) -> RemoteFail:
        raise AssertionError

    @property
    def failure(self) -> RemoteFailure:
        raise AssertionError


@pytest.mark.parametrize(
    ("cpus", "gpus", "refused"),
    [
        (3, 0, None),
        (
            1,
            0,
            "train.workers x train.num_cpus = 2..8 x 1: the cluster has 1 CPUs on 1 nodes, room for 1 such",
        ),
        (9, 1, "train.workers=2..8: the cluster has 1 GPUs; allowed: one each"),
        (9, 2, None),
    ],
)
def test_a_range_of_workers_needs_room_for_the_fewest(
    cpus: int, gpus: int, refused: str | None, tmp_path: Path
) -> None:
    run = config(tmp_path / "run", tmp_path, tmp_path, "train.workers=2..8", "train.batch=8")
    resources = Resources(cpus=cpus, gpus=gpus)
    if refused is None:
        elastic = scaling_config(run, resources)
        assert (elastic.num_workers, elastic.num_cpus_per_worker) == ((2, 8), 1)
        return
    with pytest.raises(UserError) as caught:
        scaling_config(run, resources)
    assert str(caught.value).startswith(refused)
