"""Predict a few images in this process: the stages of the graph, without a cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import islice

import pyarrow as pa

from segray.pipelines.annotation.stages.read import ReadImages, pending_table
from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.engine import single_process
from segray.pipelines.engine.cpu import available_cores
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.prediction.job import Job
from segray.pipelines.prediction.stages import BATCH, MAX_TRIES, PredictImages, WriteMasks


def suits(config: PredictConfig, n_pending: int) -> bool:
    """Whether to predict the pending images in this process: few, no cluster and no workers requested."""
    if config.workers is not None:
        return False
    return single_process.suits(config.out, n_pending, config.address, config.grow)


def predictions(job: Job, refs: Iterable[ImageRef]) -> Generator[pa.Table]:
    """Predict the images; yields tables of `stages.ROW_SCHEMA` when their images' files are written."""
    import torch

    gpus, guard, pending = float(torch.cuda.is_available()), Guard(Ledger(), MAX_TRIES), iter(refs)
    plan = PoolPlan(1, 1, num_cpus=0, num_gpus=gpus, threads=available_cores(), batch_size=BATCH)
    with single_process.running(job.out):
        read = ReadImages(job.options, False, guard)
        predict, write = PredictImages(job, plan, guard), WriteMasks(job, guard)

        def predicted(images: pa.Table) -> pa.Table:
            return write(predict(images))

        while batch := list(islice(pending, BATCH)):
            # `map` keeps no image while the next one is decoded.
            yield from map(predicted, read.in_pieces(pending_table(batch)))
