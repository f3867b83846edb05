"""The Ray Data graph of `segray annotate`: read > segment > classify (or label, in one) > encode > write."""

from __future__ import annotations

from segray.pipelines.annotation.model_stages import model_stages
from segray.pipelines.annotation.parts import PartWriter
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.probe import Pools
from segray.pipelines.annotation.sink import LabelSink
from segray.pipelines.annotation.stages.encode import EncodeLabels
from segray.pipelines.annotation.stages.read import ReadImages
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import RemoteLedger
from segray.pipelines.engine.pools import BatchSizes
from segray.pipelines.engine.ray_data import TASK_CPUS, pending_images, through_actors, through_tasks


def label(prepared: Prepared, pools: Pools, sizes: BatchSizes, ledger: RemoteLedger, token: str) -> None:
    """Label the pending images of a run, part by part.

    Args:
        prepared: the run.
        pools: by stage.
        sizes: how many images travel together.
        ledger: knows who works on what.
        token: of the run lock.
    """
    config, guard = prepared.config, Guard(ledger, prepared.config.max_tries)
    images = pending_images(config.out, sizes.block)
    images = through_tasks(
        images, ReadImages(prepared.options, config.embed_images, guard).in_pieces, sizes.block
    )
    for stage in model_stages(prepared, shared=pools.shared):
        plan = pools.plans[stage.name]
        images = through_actors(images, stage.kind, plan, sizes.batch, guard=guard, **stage.arguments)
    images = through_tasks(images, EncodeLabels(prepared.space, guard), sizes.block)
    sink = LabelSink(PartWriter.of(prepared, token, ledger), sizes.part)
    images.write_datasink(sink, ray_remote_args={"num_cpus": TASK_CPUS})
