"""One Ray Train run: its workers, where its checkpoints go, and the lines that its workers print."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.engine import cluster
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.run_folder import CHECKPOINTS


def trainer(
    config: TrainConfig, loop: Callable[[dict[str, Any]], str | None], given: dict[str, Any], workers: Any
) -> Any:
    """A `TorchTrainer` whose checkpoints go into the run's folder.

    Args:
        loop: what each worker runs.
        given: what `loop` is called with.
        workers: see `scaling`.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    # A worker's figures wait for Ray's next look at it, and with them the worker: two seconds are more than a
    # short epoch. Hundreds of workers are asked less often.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(_look_s(config.train.workers)))
    filesystem, path = storage.arrow_storage(config.out)
    return TorchTrainer(
        loop,
        train_loop_config=given,
        scaling_config=workers,
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=3, checkpoint_score_attribute="miou", checkpoint_score_order="max"
            ),
        ),
    )


def _look_s(workers: int) -> float:
    return min(2.0, max(0.25, workers / 64))


def scaling(config: TrainConfig, resources: cluster.Resources) -> Any:
    """How many workers run, and on what.

    Raises:
        UserError: more than the cluster has.
    """
    import ray.train

    workers = config.train.workers
    gpu = resources.gpus > 0
    if gpu and workers > resources.gpus:
        raise UserError(
            f"train.workers={workers}: the cluster has {resources.gpus:g} GPUs; allowed: one each"
        )
    cpus = config.train.num_cpus or (1 if gpu else _share(workers, resources))
    if resources.room(cpus) < workers:
        raise UserError(
            f"train.workers x train.num_cpus = {workers} x {cpus:g}: the cluster has {resources.cpus:g} CPUs "
            f"on {resources.nodes} nodes, room for {resources.room(cpus)} such workers"
        )
    return ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": cpus})


def _share(workers: int, resources: cluster.Resources) -> int:
    """The most CPUs that each worker can have; a worker is on one node."""
    most = max(1, int(resources.cpus) // workers)
    return next((cpus for cpus in range(most, 1, -1) if resources.room(cpus) >= workers), 1)


def work(given: dict[str, Any]) -> str | None:
    """What each Ray Train worker runs; the reason where the run must not go on."""
    from segray.pipelines.engine.compiling import CannotCompileError
    from segray.pipelines.training.loop import Worker
    from segray.pipelines.training.meter import DivergedError
    from segray.pipelines.training.session import RaySession

    config, data = given["config"], given["data"]
    session = RaySession(storage.join(config.out, CHECKPOINTS), given["log_collector"])
    try:
        Worker(config, data, session, given["logs"]).run()
    except (CannotCompileError, DivergedError) as error:
        return str(error)
    return None


def logs_of(config: TrainConfig) -> str | None:
    """Where the trackers' files go; they append to files, which object stores cannot."""
    return str(storage.local_path(config.out)) if storage.is_local(config.out) else None


@contextmanager
def log_collector() -> Iterator[Any]:
    """An actor that workers write lines to, and a thread that prints them here."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class LogCollector:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def write(self, line: str) -> None:
            self.lines.append(line)

        def drain(self) -> list[str]:
            lines, self.lines = self.lines, []
            return lines

    # On the driver's node, which the run cannot outlive: lines on a node that is lost would be lost too.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(LogCollector).remote()
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(0.5):
            _print(ray.get(actor.drain.remote()))

    thread = threading.Thread(target=follow, name="segray-train-lines", daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        ended.set()
        thread.join()
        _print(ray.get(actor.drain.remote()))


def _print(lines: list[str]) -> None:
    for line in lines:
        click.echo(line, err=True)
