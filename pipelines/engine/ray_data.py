"""The Ray Data side of a run: its settings, the list of images as a data set, tasks and actors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from segray.pipelines.engine.cluster import ACCELERATOR
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.io import pending, storage

if TYPE_CHECKING:
    from ray.data import Dataset

TASK_CPUS = 0.25
"""CPUs of a decode, encode or write task: few, as tasks and actors must fit side by side on two CPUs."""
NO_PROGRESS_S = 600
"""Ray Data gives up when nothing at all moves for so long; its own default is half an hour."""


def configure(patience_s: int = NO_PROGRESS_S) -> None:
    """Set up Ray Data for this run: bounded waiting, small blocks, no output of its own.

    Args:
        patience_s: seconds after which Ray Data gives up if no block has moved.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = patience_s
    # Otherwise what a worker raises arrives wrapped, and loses its cause on the way to the driver.
    context.raise_original_map_exception = True
    context.target_max_block_size = 32 * 2**20
    # Its errors are tracebacks of what it raises as well.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # One of them: a run of few images has not enough of them for all its actors.
    warnings.filterwarnings("ignore", module=r"ray\.data")


def pending_images(out: str, block_rows: int) -> Dataset:
    """The images that are left to process, in blocks of so many rows.

    Args:
        out: the run's folder.
        block_rows: images per block.
    """
    import ray

    filesystem, path = storage.arrow_storage(storage.join(out, pending.PENDING))
    images = ray.data.read_parquet(
        path, filesystem=filesystem, columns=pending.PENDING_COLUMNS, num_cpus=TASK_CPUS
    )
    return in_blocks(images, block_rows)


def in_blocks(dataset: Dataset, rows: int) -> Dataset:
    """The rows of a data set in blocks of so many, or fewer, in order.

    `Dataset.repartition` takes one whole CPU, has no public way to take less, and holds it until its last
    block is consumed. If the actors leave only that CPU, no task can run and a long list waits for ever.
    """
    blocks = dataset.repartition(target_num_rows_per_block=rows)
    blocks._logical_plan.dag.ray_remote_args["num_cpus"] = TASK_CPUS
    return blocks


def through_tasks(
    images: Dataset, process: Callable[[pa.Table], pa.Table | Iterator[pa.Table]], rows: int
) -> Dataset:
    """The images after a stage that runs as tasks on CPUs, of so many rows each."""
    return images.map_batches(process, batch_size=rows, batch_format="pyarrow", num_cpus=TASK_CPUS)


def through_actors(
    images: Dataset, stage: type, plan: PoolPlan, most_rows: int, **arguments: object
) -> Dataset:
    """The images after a stage whose workers hold a model.

    Args:
        images: before the stage.
        stage: its class; each worker makes one object of it, with `plan` and `arguments`.
        plan: of the pool.
        most_rows: images that a worker takes at a time at most.
        arguments: of the class.
    """
    from ray.data import ActorPoolStrategy

    workers = ActorPoolStrategy(
        min_size=plan.workers,
        max_size=plan.max_workers,
        initial_size=plan.workers,
        max_concurrent_calls_per_actor=plan.calls,
        enable_true_multi_threading=plan.calls > 1,
    )
    return images.map_batches(
        stage,
        fn_constructor_kwargs={"plan": plan, **arguments},
        batch_size=min(plan.batch_size, most_rows),
        batch_format="pyarrow",
        num_cpus=plan.num_cpus,
        num_gpus=plan.num_gpus,
        label_selector={ACCELERATOR: plan.accelerator} if plan.accelerator else None,
        compute=workers,
    )
