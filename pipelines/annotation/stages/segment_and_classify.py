"""Segment and classify in one worker: both models on one GPU, the image copied to the worker once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import pyarrow as pa

from segray.models.masks import pack
from segray.models.tiling import Tiling
from segray.pipelines.annotation.stages.base import rows_of, to_table
from segray.pipelines.annotation.stages.classify import ClassifySegments, TextEmbeddings
from segray.pipelines.annotation.stages.loading import device_of
from segray.pipelines.annotation.stages.schemas import CLASSIFIED_SCHEMA
from segray.pipelines.annotation.stages.segment import SegmentImages
from segray.pipelines.config.commands.annotate import ClipModel, SamModel
from segray.pipelines.engine.gpu_meter import GpuMeter
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row


class SegmentAndClassify:
    """`SegmentImages` and `ClassifySegments`, one after the other on a batch of images.

    Several threads may call it, each with a batch. Each model takes one batch at a time, so that SAM has the
    next one as soon as it is through with one, while CLIP names the segments of that one, on a stream of its
    own that goes before SAM's, and other threads unpack and pack what Ray moves.
    """

    def __init__(
        self,
        sam: SamModel,
        clip: ClipModel,
        text: TextEmbeddings,
        keep_embeddings: bool,
        plan: PoolPlan,
        guard: Guard,
        tiling: Tiling | None = None,
    ) -> None:
        self._guard = guard
        self._segment = SegmentImages(sam, plan, guard, tiling=tiling)
        self._classify = ClassifySegments(clip, text, keep_embeddings, plan, guard, tiling=tiling)
        self._sam_turn, self._clip_turn = threading.Lock(), threading.Lock()
        self._beside = _stream_before_others(plan)
        self._meter = GpuMeter() if plan.num_gpus else None

    def __call__(self, table: pa.Table) -> pa.Table:
        """READ_SCHEMA to CLASSIFIED_SCHEMA.

        Raises:
            UserError: the weights of a model could not be loaded.
        """
        self._segment.model()
        self._classify.model()
        rows = rows_of(table)
        with self._sam_turn:
            rows = self._guard.run(self._segment.name, rows, self._segments)
        with self._clip_turn, self._beside():
            rows = self._guard.run(self._classify.name, rows, self._classify.process)
        if self._meter:
            self._guard.ledger.sampled(*self._meter.take())
        return to_table(map(_packed, rows), CLASSIFIED_SCHEMA)

    def _segments(self, rows: list[Row]) -> list[Row]:
        segments_of_rows = self._segment.segments(rows)
        return [
            {**row, "unpacked_segments": segments}
            for row, segments in zip(rows, segments_of_rows, strict=True)
        ]


def _packed(row: Row) -> Row:
    return {**row, "packed_segments": pack(row["unpacked_segments"])} if row["status"] == "ok" else row


def _stream_before_others(plan: PoolPlan) -> Callable[[], AbstractContextManager[object]]:
    """Makes a context in which work is queued before other work on the GPU; on a CPU it does nothing."""
    if device_of(plan) == "cpu":
        return nullcontext
    import torch

    stream = torch.cuda.Stream(priority=-1)
    # The models' weights are copied by then.
    stream.wait_stream(torch.cuda.current_stream())
    return partial(torch.cuda.stream, stream)
