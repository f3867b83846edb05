"""Train in the command's own process: the loop of a Ray Train worker, without a cluster."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.engine import local_ray, single_process
from segray.pipelines.engine.cpu import use_threads
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.io import storage
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.run_folder import CHECKPOINTS
from segray.pipelines.training.trainer import tracker_folder, train_until_end

if TYPE_CHECKING:
    from segray.pipelines.training.failures import Failure

_log = logging.getLogger(__name__)


def suits(config: TrainConfig) -> bool:
    """Whether to train in this process: one worker on CPUs, no cluster and no CPUs requested."""
    import torch

    if config.train.most_workers > 1 or config.train.num_cpus is not None or torch.cuda.is_available():
        return False
    return single_process.suits(config.out, 1, config.address, config.grow)


def fit(config: TrainConfig, data: TrainingData) -> Failure | None:
    """Train to the end, with as many threads as a worker on this machine has.

    Returns:
        Why, if the run stopped early.
    """
    from segray.pipelines.training.session import LocalSession

    with single_process.running(config.out), Waiting("the network to load") as wait:
        session = LocalSession(storage.join(config.out, CHECKPOINTS), wait)
        if "OMP_NUM_THREADS" not in os.environ:
            use_threads(local_ray.local_cpus())
        for failures_left in range(config.train.max_failures, -1, -1):
            try:
                return train_until_end(config, data, session, tracker_folder(config))
            except Exception as error:
                if not failures_left:
                    raise
                _log.warning("%s: %s; resuming from the newest checkpoint", type(error).__name__, error)
    raise AssertionError
