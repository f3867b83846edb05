"""The Ray Data graph of prediction.

to-do list -> read and decode (CPU tasks) -> network pool -> encode and write (CPU tasks) -> one row an image
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from segray.pipelines.annotation.stages.encode import read_tables
from segray.pipelines.config.commands.annotate import Pool
from segray.pipelines.engine import cluster, ledger, pools
from segray.pipelines.io import pending, storage
from segray.pipelines.prediction.stages import Job, PredictImages, finish_table

MAX_TRIES = 3
"""An image that brings its worker down this often becomes an error row."""
_BATCH = 4
"""Images that a task or an actor takes: few, so that full-size pixels never pile up."""


def pool_plan(workers: int | None, resources: cluster.Resources) -> pools.PoolPlan:
    """The network's pool.

    Args:
        workers: how many actors; None: as many as there are GPUs, or else CPUs.
        resources: what the cluster has.
    """
    return pools.plan_alone(Pool(workers=workers, batch_size=_BATCH), resources)


def predictions(job: Job, plan: pools.PoolPlan) -> Iterator[pa.Table]:
    """Run the graph; tables of `stages.ROW_SCHEMA` as their images' files are written."""
    import ray
    from ray.data import ActorPoolStrategy

    guard: dict[str, Any] = {"book": ledger.start(), "max_tries": MAX_TRIES}
    task: dict[str, Any] = {
        "num_cpus": cluster.TASK_CPUS,
        "batch_format": "pyarrow",
        "batch_size": _BATCH,
    }
    filesystem, path = storage.open_storage(storage.join(job.out, pending.PENDING))
    todo = ray.data.read_parquet(
        path, filesystem=filesystem, columns=pending.PENDING_COLUMNS, num_cpus=cluster.TASK_CPUS
    )
    dataset = (
        cluster.in_blocks(todo, _BATCH)
        .map_batches(partial(read_tables, options=job.options, embed_images=False, **guard), **task)
        .map_batches(
            PredictImages,
            fn_constructor_kwargs={"job": job, "plan": plan, **guard},
            batch_format="pyarrow",
            batch_size=plan.batch_size,
            num_cpus=plan.num_cpus,
            num_gpus=plan.num_gpus,
            compute=ActorPoolStrategy(
                min_size=plan.workers, max_size=plan.max_workers, initial_size=plan.workers
            ),
        )
        .map_batches(partial(finish_table, job=job, **guard), **task)
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
