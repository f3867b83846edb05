"""Work on a batch so that one image can neither end the run nor take its neighbours with it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from segray.pipelines.io.images import ImageProblem

Row = dict[str, Any]
Work = Callable[[list[Row]], list[Row]]

_log = logging.getLogger(__name__)


class Book(Protocol):
    """What `guarded` needs of a `Ledger`."""

    def begin(self, stage: str, ids: Sequence[str]) -> bool:
        """See `Ledger.begin`."""
        ...

    def begin_alone(self, stage: str, image_id: str) -> int:
        """See `Ledger.begin_alone`."""
        ...

    def end(self, stage: str, ids: Sequence[str], seconds: float) -> None:
        """See `Ledger.end`."""
        ...


def guarded(stage: str, rows: list[Row], work: Work, book: Book, max_tries: int) -> list[Row]:
    """`work` on the rows that are still ok, the others as they are, in the given order.

    * Memory runs out: the batch is halved; an image that fails alone becomes an error row.
    * An image raises: likewise, with the exception's first line as the reason.
    * The worker dies: on its return the batch is taken one image at a time, and an image that was begun alone
      `max_tries` times without an end becomes an error row.
    * The work is told to stop (KeyboardInterrupt, SystemExit): it stops, and no row is made of it.
    """
    live = [row for row in rows if row["status"] == "ok"]
    if not live:
        return rows
    ids = [row["image_id"] for row in live]
    began = time.perf_counter()
    if book.begin(stage, ids):
        done = [_alone(stage, row, work, book, max_tries) for row in live]
    else:
        done = _halving(stage, live, work)
    book.end(stage, ids, time.perf_counter() - began)
    finished = {row["image_id"]: row for row in done}
    return [finished.get(row["image_id"], row) for row in rows]


def failed(row: Row, reason: str, status: str = "error") -> Row:
    """The row of an image that cannot be labelled: its reason on one line, and none of its pixels."""
    return {
        **row,
        "status": status,
        "error": " ".join(reason.split())[:500],
        "pixels": None,
        "segments": None,
    }


def _alone(stage: str, row: Row, work: Work, book: Book, max_tries: int) -> Row:
    tries = book.begin_alone(stage, row["image_id"])
    if tries > max_tries:
        return failed(row, f"{stage}: its worker died {max_tries} times on this image alone")
    done = _halving(stage, [row], work)[0]
    book.end(stage, [row["image_id"]], 0.0)
    return done


def _halving(stage: str, rows: list[Row], work: Work) -> list[Row]:
    try:
        return work(rows)
    except Exception as error:  # noqa: BLE001  whatever one image does, the others go on
        if _is_broken_device(error):
            _log.error("%s: %s; starting the worker anew", stage, error)
            os._exit(1)
        if len(rows) == 1:
            return [_given_up(stage, rows[0], error)]
    _release_memory()
    middle = len(rows) // 2
    return _halving(stage, rows[:middle], work) + _halving(stage, rows[middle:], work)


def _given_up(stage: str, row: Row, error: Exception) -> Row:
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
