"""The Ray Data graph of `segray predict`: read > predict > encode and write > one row per image."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from segray.pipelines.annotation.stages.read import ReadImages
from segray.pipelines.config.commands.annotate import Pool
from segray.pipelines.engine import ledger, pools
from segray.pipelines.engine.cluster import Resources
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ray_data import pending_images, through_actors, through_tasks
from segray.pipelines.prediction.job import Job
from segray.pipelines.prediction.stages import BATCH, MAX_TRIES, PredictImages, WriteMasks


def pool_plan(workers: int | None, resources: Resources, n_images: int) -> pools.PoolPlan:
    """The network's pool.

    Args:
        workers: how many actors; None: as many as there are GPUs, or else CPUs.
        resources: what the cluster has.
        n_images: of the run; no more actors than these, unless `workers` says so.
    """
    return pools.plan_alone(Pool(workers=workers, batch_size=BATCH), resources, n_images)


def predictions(job: Job, plan: pools.PoolPlan) -> Iterator[pa.Table]:
    """Run the graph; yields tables of `stages.ROW_SCHEMA` when their images' files are written."""
    with ledger.started() as run_ledger:
        guard = Guard(run_ledger, MAX_TRIES)
        images = pending_images(job.out, BATCH)
        images = through_tasks(images, ReadImages(job.options, False, guard).in_pieces, BATCH)
        images = through_actors(images, PredictImages, plan, BATCH, job=job, guard=guard)
        images = through_tasks(images, WriteMasks(job, guard), BATCH)
        yield from images.iter_batches(batch_size=None, batch_format="pyarrow")
