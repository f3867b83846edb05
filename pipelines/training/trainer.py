"""One Ray Train run: its workers, and where its checkpoints go.

The training loop that each worker runs is `loop.Trainer`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.engine import cluster
from segray.pipelines.engine.actors import own_interrupt
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.sources import sources_of
from segray.pipelines.training.checkpoints import CHECKPOINTS_KEPT
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.log_collector import LogActor
from segray.pipelines.training.run_folder import CHECKPOINTS

if TYPE_CHECKING:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from segray.pipelines.training.failures import Failure
    from segray.pipelines.training.session import Session

T = TypeVar("T")

_SET: set[str] = set()
"""Variables that a run in another thread of this process has set, and not the user."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerInputs:
    """What each worker of a run receives.

    Attributes:
        config: the run.
        data: checked images, masks and labels.
        log_collector: handle of the `LogCollector` actor.
        tracker_folder: folder for the trackers' files; None: no trackers.
        watched: whether Ray Train watches the machines.
    """

    config: TrainConfig
    data: TrainingData
    log_collector: LogActor
    tracker_folder: str | None
    watched: bool = False


def train_worker(inputs: WorkerInputs) -> Failure | None:
    """Run one Ray Train worker to the end of training; why, if the run must stop early.

    An error that would happen again is returned by a worker alone; one of several raises it, so that the
    others stop waiting for it, and all return it when Ray starts them again.
    """
    import ray

    from segray.pipelines.training.failures import lasting_failure
    from segray.pipelines.training.session import RaySession

    collector = inputs.log_collector
    folder = storage.join(inputs.config.out, CHECKPOINTS)
    session = RaySession(folder, collector, watched=inputs.watched)
    if session.workers > 1 and (earlier := ray.get(collector.failure.remote())):
        return earlier
    if inputs.config.train.elastic and session.rank == 0:
        session.log(f"workers that share each batch: {session.workers}")
    try:
        return train_until_end(inputs.config, inputs.data, session, inputs.tracker_folder)
    except Exception as error:
        if failure := lasting_failure(error):
            ray.get(collector.fail.remote(failure))
        raise


def train_until_end(
    config: TrainConfig, data: TrainingData, session: Session, tracker_folder: str | None
) -> Failure | None:
    """Run one worker, in a Ray Train worker or not, to the end of training.

    Args:
        config: the run.
        data: checked images, masks and labels.
        session: connects the worker to the others.
        tracker_folder: folder for the trackers' files; None: no trackers.

    Returns:
        Why, if the run must stop early, and no other worker waits for this one.
    """
    from segray.pipelines.training.failures import lasting_failure
    from segray.pipelines.training.loop import Trainer

    try:
        Trainer(config, data, session, tracker_folder).run()
    except Exception as error:
        failure = lasting_failure(error)
        if failure is None or not (session.workers == 1 or failure.everywhere):
            raise
        _log.debug("the worker cannot continue", exc_info=True)
        return failure
    return None


def fit(config: TrainConfig, train_loop: Callable[[], T], resources: cluster.Resources) -> T:
    """Run the training workers to the end; returns what the first of them returns.

    Args:
        config: the run.
        train_loop: what each worker runs.
        resources: what the cluster has.

    Raises:
        UserError: as `scaling_config`.
    """
    trainer = torch_trainer(config, train_loop, scaling_config(config, resources))
    with _environment(config, resources), own_interrupt():
        returned: T = trainer.fit().return_value
    return returned


@contextmanager
def _environment(config: TrainConfig, resources: cluster.Resources) -> Iterator[None]:
    """What Ray Train reads from the environment, where the user has not set it, and for one run alone.

    A report of a worker waits until Ray polls the worker, and training with it: Ray's two seconds are longer
    than a short epoch. Hundreds of workers are polled less often.
    """
    wanted = {
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": str(int(watches(config, resources))),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(_poll_interval(config.train.most_workers)),
    }
    ours = {name: value for name, value in wanted.items() if name not in os.environ or name in _SET}
    os.environ.update(ours)
    _SET.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
            _SET.discard(name)


def torch_trainer(
    config: TrainConfig, train_loop: Callable[[], object], workers: ScalingConfig
) -> TorchTrainer:
    """A `TorchTrainer` whose checkpoints go into the run's folder.

    Args:
        config: the run.
        train_loop: what each worker runs.
        workers: see `scaling_config`.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from segray.pipelines.training.rendezvous import RendezvousConfig

    filesystem, path = storage.arrow_storage(config.out)
    return TorchTrainer(
        train_loop,
        scaling_config=workers,
        torch_config=RendezvousConfig(),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=CHECKPOINTS_KEPT, checkpoint_score_attribute="miou", checkpoint_score_order="max"
            ),
        ),
    )


def _poll_interval(workers: int) -> float:
    return min(2.0, max(0.25, workers / 64))


def watches(config: TrainConfig, resources: cluster.Resources) -> bool:
    """Whether Ray Train watches for preempted nodes: of a single one, that would be a process for nothing."""
    return resources.nodes > 1 or config.train.elastic


def scaling_config(config: TrainConfig, resources: cluster.Resources) -> ScalingConfig:
    """How many workers run, and the resources of each.

    Raises:
        UserError: the cluster has too few GPUs or CPUs.
    """
    import ray.train

    train = config.train
    fewest, most = train.fewest_workers, train.most_workers
    gpu = resources.gpus > 0
    if gpu and fewest > resources.gpus:
        raise UserError(
            f"train.workers={train.workers}: the cluster has {resources.gpus:g} GPUs; allowed: one each"
        )
    cpus = train.num_cpus or (1 if gpu else _cpus_per_worker(most, resources))
    if resources.room(cpus) < fewest:
        raise UserError(
            f"train.workers x train.num_cpus = {train.workers} x {cpus:g}: the cluster has "
            f"{resources.cpus:g} CPUs on {resources.nodes} nodes, "
            f"room for {resources.room(cpus)} such workers"
        )
    number = (fewest, most) if train.elastic else most
    return ray.train.ScalingConfig(num_workers=number, use_gpu=gpu, resources_per_worker={"CPU": cpus})


def _cpus_per_worker(workers: int, resources: cluster.Resources) -> int:
    """The most CPUs that each worker can have; a worker runs on one node."""
    most = max(1, int(resources.cpus) // workers)
    return next((cpus for cpus in range(most, 1, -1) if resources.room(cpus) >= workers), 1)


def places(config: TrainConfig) -> list[str]:
    """Folders and URIs that the workers read, besides what is under `out`."""
    labels = None if config.data.calibrate else config.data.labels
    others = (labels, config.network.checkpoint)
    return [*sources_of(config.data.root), *(place for place in others if place)]


def tracker_folder(config: TrainConfig) -> str | None:
    """Folder for the trackers' files; None in an object store, whose files cannot be appended to."""
    return str(storage.local_path(config.out)) if storage.is_local(config.out) else None
