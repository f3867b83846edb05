"""Label a few images in this process: the graph's stages without a cluster, which takes long to start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from segray.pipelines.annotation.in_process import Stages
from segray.pipelines.annotation.parts import PartWriter
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.config.commands.annotate import AnnotateConfig, Pool
from segray.pipelines.engine import cluster
from segray.pipelines.engine.cpu import available_cores, keep_thread_count
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import ImageRef

FEW = 16
"""More images than this are worth a cluster."""
_ROWS_PER_PART = 8
_MARK = ".in-process"
"""A file in the output while images are labelled in the driver's process."""


def suits(config: AnnotateConfig, n_pending: int) -> bool:
    """Whether to label the pending images in this process.

    No, if the user asks for a cluster or for workers. No, if an earlier run died while it did so: perhaps an
    image kills the process, and only a cluster finds out which.
    """
    sized = any(_is_sized(pool) for pool in (config.sam, config.clip))
    if n_pending > FEW or sized or cluster.is_requested(config.address, config.grow):
        return False
    return not storage.exists(storage.join(config.out, _MARK))


def _is_sized(pool: Pool) -> bool:
    return any(value is not None for value in (pool.workers, pool.max_workers, pool.num_cpus, pool.num_gpus))


def label(prepared: Prepared, refs: Iterable[ImageRef], ledger: Ledger, token: str) -> None:
    """Label images part by part.

    Args:
        prepared: the run.
        refs: the pending images.
        ledger: counts what is done.
        token: of the run lock.

    Raises:
        UserError: the weights could not be loaded, or a part could not be written.
    """
    out, rows_per_part = prepared.config.out, prepared.config.rows_per_part or _ROWS_PER_PART
    with _marked(out), keep_thread_count():
        stages = Stages(prepared, ledger, available_cores())
        writer = PartWriter.of(prepared, token, ledger)
        pending = iter(refs)
        while batch := list(islice(pending, rows_per_part)):
            writer.write(stages.label(batch))


@contextmanager
def _marked(out: str) -> Iterator[None]:
    """Leave a mark in `out` if this process dies."""
    storage.write_atomic(storage.join(out, _MARK), b"")
    try:
        yield
    finally:
        forget_death(out)


def forget_death(out: str) -> None:
    """Remove the mark of a run that died: all images are done."""
    storage.delete(storage.join(out, _MARK))
