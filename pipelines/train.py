"""`segray train`: checks, then one Ray Train run, and what it leaves behind."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from pipelines import cluster
from pipelines.config.paths import absolute
from pipelines.config.train import TrainConfig
from pipelines.errors import UserError
from pipelines.store import storage
from pipelines.store.run_lock import RunLock
from pipelines.store.shared import require_shared
from pipelines.training.data import TrainingData, open_data
from pipelines.training.run_folder import CHECKPOINTS, RunFolder
from pipelines.training.trackers import check_trackers

_log = logging.getLogger(__name__)


def run(config: TrainConfig) -> None:
    """Train, or go on where a run stopped, and print the outcome.

    Raises:
        UserError: bad data, masks, weights or options (2); the folder belongs to another run (2) or is in use
            (4); the loss diverged (1).
    """
    # Ray Train moves its workers into a folder of theirs.
    config = absolute(config)
    folder = RunFolder(config)
    folder.check()
    check_trackers(config.trackers)
    data = open_data(config.data, config.seed)
    check(config, data)
    with RunLock(config.out):
        folder.begin(data)
        stopped = None if folder.finished() else _fit(config, data)
        folder.export()
    if stopped:
        raise UserError(
            f"{stopped}; the checkpoints before it are in {storage.display(config.out)}", exit_code=1
        )
    click.echo("\n".join(folder.summary()))


def check(config: TrainConfig, data: TrainingData) -> None:
    """Refuse what cannot be trained, before Ray starts.

    Raises:
        UserError: the method lacks labels or images, there is nothing to validate on, or bad weights.
    """
    _check_data(config, data)
    _check_network(config, data)


def _check_data(config: TrainConfig, data: TrainingData) -> None:
    from models.methods import METHODS

    pseudo = METHODS[config.method].pseudo
    if pseudo == "enhanced" and config.data.labels is None:
        raise UserError(
            f"data.labels: method {config.method} needs a label set; `segray annotate` makes one "
            "(without: supervised, fixmatch, unimatch, unimatch_v2)"
        )
    if pseudo != "none" and not data.unlabelled:
        raise UserError(
            f"data.unlabelled: method {config.method} needs images that are not in data.labelled="
            f"{config.data.labelled}, there are none; label fewer, such as data.labelled=92 or 1/16"
        )
    if not data.validation:
        raise UserError("data.validation: there is no image to validate on")


def _check_network(config: TrainConfig, data: TrainingData) -> None:
    """Load the weights once here, so that what is wrong with them is told before Ray starts."""
    from models.segmenter import build_segmenter

    given = config.network
    try:
        build_segmenter(
            given.name, len(data.space.classes), weights=given.weights, pretrained=given.pretrained
        )
    except (ValueError, ImportError) as error:
        raise UserError(f"network: {error}") from error


def _fit(config: TrainConfig, data: TrainingData) -> str | None:
    """Run the workers to the end; why they stopped early, if they did."""
    with cluster.session(config.address, config.grow) as resources, _board() as board:
        require_shared(config.out, [place for place in (config.data.root, config.data.labels) if place])
        given = {"config": config, "data": data, "board": board, "logs": logs_of(config)}
        return trainer(config, work, given, scaling(config, resources)).fit().return_value


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
    filesystem, path = storage.open_storage(config.out)
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
    from pipelines.compiling import CannotCompileError
    from pipelines.training.loop import Worker
    from pipelines.training.meter import DivergedError
    from pipelines.training.session import RaySession

    config, data = given["config"], given["data"]
    session = RaySession(storage.join(config.out, CHECKPOINTS), given["board"])
    try:
        Worker(config, data, session, given["logs"]).run()
    except (CannotCompileError, DivergedError) as error:
        return str(error)
    return None


def logs_of(config: TrainConfig) -> str | None:
    """Where the trackers' files go; they append to files, which object stores cannot."""
    return str(storage.local_path(config.out)) if storage.is_local(config.out) else None


@contextmanager
def _board() -> Iterator[Any]:
    """An actor that workers write lines to, and a thread that prints them here."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Board:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def write(self, line: str) -> None:
            self.lines.append(line)

        def take(self) -> list[str]:
            lines, self.lines = self.lines, []
            return lines

    # On the driver's node, which the run cannot outlive: lines on a node that is lost would be lost too.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Board).remote()
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(0.5):
            _print(ray.get(actor.take.remote()))

    thread = threading.Thread(target=follow, name="segray-train-lines", daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        ended.set()
        thread.join()
        _print(ray.get(actor.take.remote()))


def _print(lines: list[str]) -> None:
    for line in lines:
        click.echo(line, err=True)
