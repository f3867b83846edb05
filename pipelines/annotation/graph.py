"""The Ray Data graph of annotation.

to-do list -> read, decode (CPU tasks) -> SAM pool -> GEM-CLIP pool -> paint, encode (CPU tasks) -> parts
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any, TypeVar

from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.stages.encode import encode_table, read_tables
from segray.pipelines.annotation.stages.segment import ClassifySegments, SegmentImages
from segray.pipelines.config.commands.annotate import ClipConfig, SamConfig
from segray.pipelines.engine import cluster
from segray.pipelines.engine.ledger import RemoteLedger
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.io import pending, storage
from segray.pipelines.label_set.schema import labels_schema, segments_schema

_BLOCK_ROWS = 8, 64
"""Images that go through the stages together, at least and at most: few, so that all workers get some and a
kill loses little; more of a long list, as the driver's work is by the block."""

Model = TypeVar("Model", SamConfig, ClipConfig)


def label(
    prepared: Prepared,
    token: str,
    n_todo: int,
    resources: cluster.Resources,
    plans: dict[str, PoolPlan],
    book: RemoteLedger,
) -> None:
    """Label the images of the to-do list, part by part.

    Args:
        prepared: the run.
        token: of the lock that it holds.
        n_todo: how many images there are on the list.
        resources: what the cluster has.
        plans: the pools by stage; without "sam" CLIP names pixels.
        book: who works on what.
    """
    import ray
    from ray.data import ActorPoolStrategy

    from segray.pipelines.annotation.sink import LabelSink

    config = prepared.config
    # Blocks smaller than batches that were asked for would make them a matter of luck.
    share = max(fair_share(n_todo, plans), config.sam.batch_size or 1, config.clip.batch_size or 1)
    guard: dict[str, Any] = {"book": book, "max_tries": config.max_tries}
    task: dict[str, Any] = {"num_cpus": cluster.TASK_CPUS, "batch_format": "pyarrow"}

    def pool(plan: PoolPlan) -> dict[str, Any]:
        return {
            "batch_format": "pyarrow",
            "batch_size": min(plan.batch_size, share),
            "num_cpus": plan.num_cpus,
            "num_gpus": plan.num_gpus,
            "compute": ActorPoolStrategy(
                min_size=plan.workers, max_size=plan.max_workers, initial_size=plan.workers
            ),
        }

    rows_per_part = config.rows_per_part or _rows_per_part(n_todo, resources)
    # Ray Data joins the blocks of a part but splits none.
    block_rows = min(rows_per_block(n_todo, plans), rows_per_part, share)
    sink = LabelSink(
        config.out,
        labels_schema(prepared.provenance),
        segments_schema(prepared.dim if config.embeddings else None, prepared.provenance),
        run_id=uuid.uuid4().hex[:12],
        token=token,
        rows_per_part=rows_per_part,
        ledger=book,
    )
    filesystem, path = storage.open_storage(storage.join(config.out, pending.PENDING))
    todo = ray.data.read_parquet(
        path, filesystem=filesystem, columns=pending.PENDING_COLUMNS, num_cpus=cluster.TASK_CPUS
    )
    dataset = cluster.in_blocks(todo, block_rows).map_batches(
        partial(read_tables, options=prepared.options, embed_images=config.embed_images, **guard),
        batch_size=block_rows,
        **task,
    )
    if "sam" in plans:
        dataset = dataset.map_batches(
            SegmentImages,
            fn_constructor_kwargs={"config": _pinned(config.sam, prepared), "plan": plans["sam"], **guard},
            **pool(plans["sam"]),
        )
    dataset = dataset.map_batches(
        ClassifySegments,
        fn_constructor_kwargs={
            "config": _pinned(config.clip, prepared),
            "words": prepared.words,
            "keep_embeddings": config.embeddings,
            "plan": plans["clip"],
            **guard,
        },
        **pool(plans["clip"]),
    ).map_batches(partial(encode_table, space=prepared.space, **guard), batch_size=block_rows, **task)
    dataset.write_datasink(sink, ray_remote_args={"num_cpus": cluster.TASK_CPUS})


def _pinned(model: Model, prepared: Prepared) -> Model:
    """The model with the very weights that were checked: a file changed since then must not go unnoticed."""
    record = prepared.provenance["sam" if isinstance(model, SamConfig) else "clip"]
    return model.model_copy(update={"sha256": record["sha256"]})


def _rows_per_part(n_todo: int, resources: cluster.Resources) -> int:
    """A sixteenth of a CPU's share: small parts lose little to a kill, large ones are fewer files."""
    return max(8, min(512, n_todo // (16 * max(1, int(resources.cpus)))))


def rows_per_block(n_todo: int, plans: dict[str, PoolPlan]) -> int:
    """A sixty-fourth of a worker's share, within limits."""
    workers = max(plan.max_workers for plan in plans.values())
    least, most = _BLOCK_ROWS
    return max(least, min(most, n_todo // (64 * workers)))


def fair_share(n_todo: int, plans: dict[str, PoolPlan]) -> int:
    """Images to take at a time at most: few of few, else one worker has them all, or the others wait for it.

    An eighth of what comes to each worker of the larger pool, and at least one.
    """
    return max(1, n_todo // (8 * max(plan.max_workers for plan in plans.values())))
