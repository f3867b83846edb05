"""Few images need no cluster: when a run stays in the command's own process, and what if it dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from segray.pipelines.config.shared import GrowConfig
from segray.pipelines.engine import cluster
from segray.pipelines.engine.cpu import keep_thread_count
from segray.pipelines.io import storage
from segray.pipelines.printing import echo

FEW = 16
"""More images than this are worth a cluster."""
_MARK = ".in-process"
"""A file in the output while its run is in the command's own process."""


def suits(out: str, n_pending: int, address: str | None, grow: GrowConfig) -> bool:
    """Whether to process the pending images in this process.

    No, if the user asks for a cluster. No, if an earlier run died while it did so: perhaps an image kills the
    process, and only a cluster finds out which.

    Args:
        out: the run's folder.
        n_pending: how many images are pending.
        address: of a cluster, or None.
        grow: machines to request.
    """
    if n_pending > FEW or cluster.is_requested(address, grow):
        return False
    return not _has_died(out)


def _has_died(out: str) -> bool:
    return storage.exists(storage.join(out, _MARK))


def tell_of_death(out: str) -> None:
    """Print why a small run has a cluster, if an earlier one died in the command's own process."""
    if _has_died(out):
        echo("an earlier run died in the command's own process; this one has workers", err=True)


@contextmanager
def running(out: str) -> Iterator[None]:
    """A run in this process: leaves a mark in `out` if the process dies, and restores torch's threads."""
    storage.write_atomic(storage.join(out, _MARK), b"")
    try:
        with keep_thread_count():
            yield
    finally:
        forget_death(out)


def forget_death(out: str) -> None:
    """Remove the mark of a run that died: a cluster has processed its images."""
    storage.delete(storage.join(out, _MARK))
