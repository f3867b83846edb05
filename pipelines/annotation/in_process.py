"""The stages of a run one after the other in one process, without Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import pyarrow as pa

from segray.pipelines.annotation.model_stages import model_stages
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.stages.base import Stage
from segray.pipelines.annotation.stages.encode import EncodeLabels
from segray.pipelines.annotation.stages.read import ReadImages, pending_table
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.engine.pools import IMAGES_PER_THREAD, PoolPlan
from segray.pipelines.engine.rows import Row
from segray.pipelines.io.manifest import ImageRef


class Stages:
    """The stages of a run, one after the other. On a GPU if this process sees one.

    Args:
        prepared: the run.
        ledger: counts what is done.
        threads: cores of a CPU that SAM, or a labeller, uses.
    """

    def __init__(self, prepared: Prepared, ledger: Ledger | None = None, threads: int = 1) -> None:
        import torch

        config = prepared.config
        self.ledger, self.gpu, self._config = ledger or Ledger(), torch.cuda.is_available(), config
        plan = PoolPlan(1, 1, num_cpus=0, num_gpus=float(self.gpu), threads=1, batch_size=1)
        guard, loaded = Guard(self.ledger, config.max_tries), prepared.models or {}
        self._read = ReadImages(prepared.options, config.embed_images, guard)
        self._models: list[Stage] = [
            stage.kind(
                # CLIP beside SAM has little to do, and its sums depend on the threads.
                plan=plan if stage.name == "clip" else replace(plan, threads=threads),
                guard=guard,
                loaded=loaded.get(stage.name),
                **stage.arguments,
            )
            for stage in model_stages(prepared)
        ]
        self._encode = EncodeLabels(prepared.space, guard)

    @property
    def batch_size(self) -> int:
        """Images that the run would take at a time."""
        return max(pool.batch_size or IMAGES_PER_THREAD for pool in self._config.model_stages.values())

    def read(self, refs: Sequence[ImageRef]) -> pa.Table:
        """Images as a table of `READ_SCHEMA`."""
        return self._read(pending_table(refs))

    def label(self, refs: Sequence[ImageRef]) -> list[Row]:
        """Rows of `ENCODED_SCHEMA`; no more decoded images are in memory than a read task holds."""
        # `map` keeps no image while the next one is decoded.
        encoded = map(self._label, self._read.in_pieces(pending_table(refs)))
        return [row for table in encoded for row in table.to_pylist()]

    def _label(self, images: pa.Table) -> pa.Table:
        return reduce(lambda table, stage: stage(table), (*self._models, self._encode), images)


def timed(
    stages: Stages, refs: Sequence[ImageRef], advance: Callable[[int], object] = lambda _: None
) -> tuple[list[Row], dict[str, float]]:
    """Label a few images, after a first call with one of them: a model's first call takes longer than others.

    Args:
        stages: of the run.
        refs: at least one.
        advance: called with the number of images that were just finished.

    Returns:
        Rows of `ENCODED_SCHEMA`, and the busy seconds of all images by stage.
    """
    stages.label(refs[:1])
    before = Counter(stages.ledger.tally().seconds)
    rows: list[Row] = []
    for start in range(0, len(refs), stages.batch_size):
        batch = refs[start : start + stages.batch_size]
        rows += stages.label(batch)
        advance(len(batch))
    seconds = Counter(stages.ledger.tally().seconds)
    seconds.subtract(before)
    return rows, dict(seconds)
