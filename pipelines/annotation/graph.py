"""The Ray Data graph of `segray annotate`: read > segment > classify > encode > write."""

from __future__ import annotations

from typing import TypeVar

from ray.data import Dataset

from segray.models.tiling import Tiling
from segray.pipelines.annotation.parts import PartWriter
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.probe import Pools
from segray.pipelines.annotation.sink import LabelSink
from segray.pipelines.annotation.stages.classify import ClassifySegments
from segray.pipelines.annotation.stages.encode import EncodeLabels
from segray.pipelines.annotation.stages.read import ReadImages
from segray.pipelines.annotation.stages.segment import SegmentImages
from segray.pipelines.annotation.stages.segment_and_classify import SegmentAndClassify
from segray.pipelines.config.commands.annotate import ClipConfig, SamConfig
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import RemoteLedger
from segray.pipelines.engine.pools import BatchSizes, PoolPlan
from segray.pipelines.engine.ray_data import TASK_CPUS, pending_images, through_actors, through_tasks

Model = TypeVar("Model", SamConfig, ClipConfig)


def label(prepared: Prepared, pools: Pools, sizes: BatchSizes, ledger: RemoteLedger, token: str) -> None:
    """Label the pending images of a run, part by part.

    Args:
        prepared: the run.
        pools: by stage; without "sam", CLIP classifies pixels.
        sizes: how many images travel together.
        ledger: knows who works on what.
        token: of the run lock.
    """
    config, guard = prepared.config, Guard(ledger, prepared.config.max_tries)
    images = pending_images(config.out, sizes.block)
    images = through_tasks(
        images, ReadImages(prepared.options, config.embed_images, guard).in_pieces, sizes.block
    )
    models = _through_one_pool if pools.shared else _through_two_pools
    images = models(images, prepared, pools.plans, sizes.batch, guard)
    images = through_tasks(images, EncodeLabels(prepared.space, guard), sizes.block)
    sink = LabelSink(PartWriter.of(prepared, token, ledger), sizes.part)
    images.write_datasink(sink, ray_remote_args={"num_cpus": TASK_CPUS})


def _through_two_pools(
    images: Dataset, prepared: Prepared, plans: dict[str, PoolPlan], batch: int, guard: Guard
) -> Dataset:
    if "sam" in plans:
        sam = _pinned(prepared.config.sam, prepared)
        images = through_actors(
            images, SegmentImages, plans["sam"], batch, config=sam, guard=guard, tiling=_tiling(prepared)
        )
    return through_actors(
        images,
        ClassifySegments,
        plans["clip"],
        batch,
        config=_pinned(prepared.config.clip, prepared),
        text=prepared.text,
        keep_embeddings=prepared.config.embeddings,
        guard=guard,
        tiling=_tiling(prepared),
    )


def _through_one_pool(
    images: Dataset, prepared: Prepared, plans: dict[str, PoolPlan], batch: int, guard: Guard
) -> Dataset:
    return through_actors(
        images,
        SegmentAndClassify,
        plans["sam"],
        batch,
        sam=_pinned(prepared.config.sam, prepared),
        clip=_pinned(prepared.config.clip, prepared),
        text=prepared.text,
        keep_embeddings=prepared.config.embeddings,
        guard=guard,
        tiling=_tiling(prepared),
    )


def _tiling(prepared: Prepared) -> Tiling | None:
    return prepared.config.image.tiling()


def _pinned(model: Model, prepared: Prepared) -> Model:
    """The model with exactly the weights that were checked: a file that changed since then is refused."""
    record = prepared.provenance["sam" if isinstance(model, SamConfig) else "clip"]
    checksums = {"sha256": record["sha256"]}
    if proxy := record.get("proxy"):
        checksums["proxy_sha256"] = proxy["sha256"]
    return model.model_copy(update=checksums)
