"""Process a batch so that one image can neither end the run nor take its neighbours with it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from segray.pipelines.engine.rows import Row
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.uris import redacted

Process = Callable[[list[Row]], list[Row]]

_log = logging.getLogger(__name__)


class StageLedger(Protocol):
    """What a guard needs of a `Ledger`."""

    def begin(self, stage: str, ids: Sequence[str]) -> bool:
        """See `Ledger.begin`."""
        ...

    def begin_alone(self, stage: str, image_id: str) -> int:
        """See `Ledger.begin_alone`."""
        ...

    def end(self, stage: str, ids: Sequence[str], seconds: float) -> None:
        """See `Ledger.end`."""
        ...

    def sampled(self, busy: float, samples: int) -> None:
        """See `Ledger.sampled`."""
        ...


@dataclass(frozen=True)
class Guard:
    """Runs a stage's work on a batch and turns images that fail into rows with a reason.

    Attributes:
        ledger: knows which images a worker had begun when it died.
        max_tries: how often an image may kill its worker before it becomes an error row.
    """

    ledger: StageLedger
    max_tries: int

    def run(self, stage: str, rows: list[Row], process: Process) -> list[Row]:
        """Apply `process` to the rows whose status is ok; the others pass unchanged. Keeps the order.

        * Memory runs out: the batch is halved; an image that fails alone becomes an error row.
        * An image raises: the same, with the exception's first line as the reason.
        * The worker dies: when it is back, the batch is processed one image at a time, and an image that was
          begun alone `max_tries` times without an end becomes an error row.
        * The process is asked to stop (KeyboardInterrupt, SystemExit): it stops, and no row is made of it.
        """
        live = [row for row in rows if row["status"] == "ok"]
        if not live:
            return rows
        ids = [row["image_id"] for row in live]
        began = time.perf_counter()
        if self.ledger.begin(stage, ids):
            processed = [self._alone(stage, row, process) for row in live]
        else:
            processed = _halving(stage, live, process)
        self.ledger.end(stage, ids, time.perf_counter() - began)
        by_id = {row["image_id"]: row for row in processed}
        return [by_id.get(row["image_id"], row) for row in rows]

    def _alone(self, stage: str, row: Row, process: Process) -> Row:
        tries = self.ledger.begin_alone(stage, row["image_id"])
        if tries > self.max_tries:
            return failed(row, f"{stage}: its worker died {self.max_tries} times on this image alone")
        processed = _halving(stage, [row], process)[0]
        self.ledger.end(stage, [row["image_id"]], 0.0)
        return processed


def failed(row: Row, reason: str, status: str = "error") -> Row:
    """The row of an image that cannot be labelled: its reason on one line, and none of its pixels."""
    return {
        **row,
        "status": status,
        "error": redacted(" ".join(reason.split()))[:500],
        "pixels": None,
        "packed_segments": None,
        "segments": None,
    }


def _halving(stage: str, rows: list[Row], process: Process) -> list[Row]:
    try:
        return process(rows)
    except Exception as error:  # noqa: BLE001  whatever one image does, the others continue
        if _is_broken_device(error):
            _log.error("%s: %s; restarting the worker", stage, error)
            os._exit(1)
        if len(rows) == 1:
            return [_error_row(stage, rows[0], error)]
    _release_memory()
    middle = len(rows) // 2
    return _halving(stage, rows[:middle], process) + _halving(stage, rows[middle:], process)


def _error_row(stage: str, row: Row, error: Exception) -> Row:
    if isinstance(error, ImageProblem):
        return failed(row, error.reason, error.status)
    if _is_out_of_memory(error):
        size = f" ({row['width']}x{row['height']})" if row.get("width") else ""
        return failed(row, f"{stage}: out of memory on this image alone{size}")
    _log.warning("%s: %s: %s: %s", stage, row["image_id"], type(error).__name__, error)
    return failed(row, f"{stage}: {type(error).__name__}: {error}")


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _is_broken_device(error: Exception) -> bool:
    """After such an error every call on the GPU fails in this process, whatever the image."""
    return "CUDA error" in str(error) and not _is_out_of_memory(error)


def _release_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
