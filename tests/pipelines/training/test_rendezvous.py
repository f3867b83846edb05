"""Workers of one machine meet where the network does not reach them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("ray")

from segray.pipelines.engine.listening import listeners
from segray.pipelines.training import rendezvous

_RUN = """
import ray
from ray.train import ScalingConfig, get_context
from segray.pipelines.engine import cluster
from segray.pipelines.engine.listening import listeners
from segray.pipelines.training import rendezvous, trainer
from tests.pipelines.training.runs import config
from pathlib import Path
import sys, torch, torch.distributed as dist

def loop():
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total.item() == dist.get_world_size() == 2
    seen = [f"{port} local={port.is_local}\\n" for port in listeners()]
    (folder / f"{get_context().get_world_rank()}.txt").write_text("".join(seen))
    dist.barrier()

folder = Path(sys.argv[1])
run = config(folder / "out", folder, folder, "train.max_failures=0")
with cluster.session(None):
    trainer.torch_trainer(run, loop, ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5})).fit()
"""


def _work(pipe: Connection) -> None:
    """Call what comes through the pipe."""
    torch.set_num_threads(1)
    while call := pipe.recv():
        function, *arguments = call
        pipe.send(function(*arguments))


class Group:
    """What Ray Train gives a backend: processes that call functions."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(count)]
        self.pipes = [here for here, _ in pairs]
        self.processes = [context.Process(target=_work, args=(there,)) for _, there in pairs]
        for process in self.processes:
            process.start()

    def __len__(self) -> int:
        return len(self.pipes)

    def execute_single_async(self, rank: int, function: Callable[..., Any], *arguments: Any) -> int:
        self.pipes[rank].send((function, *arguments))
        return rank

    def execute_single(self, rank: int, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.result(self.execute_single_async(rank, function, *arguments))

    def result(self, rank: int) -> Any:
        return self.pipes[rank].recv()

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join()


def _sum_of_ranks() -> float:
    total = torch.tensor([float(dist.get_rank())])
    dist.all_reduce(total)
    return float(total)


def _reachable() -> tuple[int, list[str]]:
    ports = listeners()
    return len(ports), [str(port) for port in ports if not port.is_local]


@pytest.mark.parametrize("count", [1, 2])
def test_workers_of_one_machine_meet_on_loopback(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in rendezvous._INTERFACES:
        monkeypatch.delenv(name, raising=False)
    group = Group(count)
    monkeypatch.setattr("ray.get", lambda calls: [group.result(rank) for rank in calls])
    try:
        rendezvous.join_here(group, rendezvous.RendezvousConfig(backend="gloo", timeout_s=60))
        sums = [group.execute_single_async(rank, _sum_of_ranks) for rank in range(count)]
        assert [group.result(rank) for rank in sums] == [float(sum(range(count)))] * count
        for rank in range(count):
            ports, reachable = group.execute_single(rank, _reachable)
            assert ports
            assert reachable == []
    finally:
        group.close()


@pytest.mark.ray
@pytest.mark.slow
def test_training_with_several_local_workers_listens_on_loopback_alone(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(tmp_path)],
        env={**plain, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(2):
        ports = (tmp_path / f"{rank}.txt").read_text().splitlines()
        assert ports
        assert all(port.endswith("local=True") for port in ports), ports
