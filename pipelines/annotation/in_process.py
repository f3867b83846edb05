"""The stages of a run one after the other in one process, without Ray: to see what a few images take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pyarrow as pa

from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.stages.encode import encode_table, read_table
from segray.pipelines.annotation.stages.segment import ClassifySegments, SegmentImages
from segray.pipelines.engine.guard import Row
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.engine.pools import IMAGES_PER_THREAD, PoolPlan
from segray.pipelines.io.manifest import ImageRef

_MANIFEST = pa.schema([(name, pa.string()) for name in ("image_id", "uri", "problem")])


class Stages:
    """The very stages of a run: read, SAM, CLIP, encode. On a GPU where this process sees one."""

    def __init__(self, prepared: Prepared) -> None:
        import torch

        self.book, self.gpu = Ledger(), torch.cuda.is_available()
        plan = PoolPlan(1, 1, num_cpus=0, num_gpus=float(self.gpu), threads=1, batch_size=1)
        config = prepared.config
        self._config, self._space, self._options = config, prepared.space, prepared.options
        self._segment: Callable[[pa.Table], pa.Table] | None = None
        if config.sam.model != "none":
            self._segment = SegmentImages(config.sam, plan, self.book, config.max_tries)
        self._clip = ClassifySegments(
            config.clip, prepared.words, config.embeddings, plan, self.book, config.max_tries
        )

    @property
    def batch_size(self) -> int:
        """Images that the run would take at a time."""
        return max(pool.batch_size or IMAGES_PER_THREAD for pool in (self._config.sam, self._config.clip))

    def read(self, refs: Sequence[ImageRef]) -> pa.Table:
        """Images as `stages.READ_SCHEMA`."""
        rows = [{"image_id": r.image_id, "uri": r.uri, "problem": r.problem} for r in refs]
        table = pa.Table.from_pylist(rows, _MANIFEST)
        config = self._config
        return read_table(table, self._options, config.embed_images, self.book, config.max_tries)

    def label(self, refs: Sequence[ImageRef]) -> list[Row]:
        """Rows of `stages.ENCODED_SCHEMA`."""
        read = self.read(refs)
        named = self._clip(self._segment(read) if self._segment else read)
        return encode_table(named, self._space, self.book, self._config.max_tries).to_pylist()


def timed(
    stages: Stages, refs: Sequence[ImageRef], advance: Callable[[int], object] = lambda _: None
) -> tuple[list[Row], dict[str, float]]:
    """Label a few images, the first of them once before: the first call of a model takes longer than others.

    Args:
        stages: what labels them.
        refs: at least one.
        advance: told how many more images are done.

    Returns:
        Rows of `stages.ENCODED_SCHEMA`, and busy seconds of all of them by stage.
    """
    stages.label(refs[:1])
    before = Counter(stages.book.tally().seconds)
    rows: list[Row] = []
    for start in range(0, len(refs), stages.batch_size):
        batch = refs[start : start + stages.batch_size]
        rows += stages.label(batch)
        advance(len(batch))
    seconds = Counter(stages.book.tally().seconds)
    seconds.subtract(before)
    return rows, dict(seconds)
