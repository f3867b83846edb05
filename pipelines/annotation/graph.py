"""The Ray Data graph of `segray annotate`: read > segment > classify > encode > write."""

from __future__ import annotations

from typing import TypeVar

from segray.pipelines.annotation.parts import PartWriter
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.sink import LabelSink
from segray.pipelines.annotation.stages.classify import ClassifySegments
from segray.pipelines.annotation.stages.encode import EncodeLabels
from segray.pipelines.annotation.stages.read import ReadImages
from segray.pipelines.annotation.stages.segment import SegmentImages
from segray.pipelines.config.commands.annotate import ClipConfig, SamConfig
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import RemoteLedger
from segray.pipelines.engine.pools import BatchSizes, PoolPlan
from segray.pipelines.engine.ray_data import TASK_CPUS, pending_images, through_actors, through_tasks

Model = TypeVar("Model", SamConfig, ClipConfig)


def label(
    prepared: Prepared, plans: dict[str, PoolPlan], sizes: BatchSizes, ledger: RemoteLedger, token: str
) -> None:
    """Label the pending images of a run, part by part.

    Args:
        prepared: the run.
        plans: the pools by stage; without "sam", CLIP classifies pixels.
        sizes: how many images travel together.
        ledger: knows who works on what.
        token: of the run lock.
    """
    config, guard = prepared.config, Guard(ledger, prepared.config.max_tries)
    images = pending_images(config.out, sizes.block)
    images = through_tasks(
        images, ReadImages(prepared.options, config.embed_images, guard).in_pieces, sizes.block
    )
    if "sam" in plans:
        sam = _pinned(config.sam, prepared)
        images = through_actors(images, SegmentImages, plans["sam"], sizes.batch, config=sam, guard=guard)
    images = through_actors(
        images,
        ClassifySegments,
        plans["clip"],
        sizes.batch,
        config=_pinned(config.clip, prepared),
        text=prepared.text,
        keep_embeddings=config.embeddings,
        guard=guard,
    )
    images = through_tasks(images, EncodeLabels(prepared.space, guard), sizes.block)
    sink = LabelSink(PartWriter.of(prepared, token, ledger), sizes.part)
    images.write_datasink(sink, ray_remote_args={"num_cpus": TASK_CPUS})


def _pinned(model: Model, prepared: Prepared) -> Model:
    """The model with exactly the weights that were checked: a file that changed since then is refused."""
    record = prepared.provenance["sam" if isinstance(model, SamConfig) else "clip"]
    return model.model_copy(update={"sha256": record["sha256"]})
