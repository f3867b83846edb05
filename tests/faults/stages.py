"""The stages with faults in them: an image's name says what goes wrong, and where.

Ray's workers import this module, so it does nothing by itself. What is to happen once leaves a file beside
the folder of images.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import torch

from segray.pipelines.annotation.sink import LabelSink
from segray.pipelines.annotation.stages.classify import ClassifySegments
from segray.pipelines.annotation.stages.segment import SegmentImages
from segray.pipelines.engine.rows import Row
from segray.pipelines.io import run_lock, storage
from segray.pipelines.label_set import store


class FaultySam(SegmentImages):
    """SAM, and what the names of the images in a batch ask for."""

    def process(self, rows: list[Row]) -> list[Row]:
        strike("sam", rows)
        return super().process(rows)


class FaultyClip(ClassifySegments):
    """The same for GEM-CLIP."""

    def process(self, rows: list[Row]) -> list[Row]:
        strike("clip", rows)
        return super().process(rows)


def strike(stage: str, rows: list[Row]) -> None:
    """Do what the images' names say: sam-dies-once.png, clip-dies.png, sam-memory-alone.png, ..."""
    for row in rows:
        wanted, _, what = PurePosixPath(row["image_id"]).stem.partition("-")
        if wanted == stage:
            _FAULTS[what](row, rows)


def fired(images: Path, fault: str) -> int:
    """How often a fault has happened."""
    return len(list(images.parent.glob(f".{fault}.*")))


def _mark(row: Row) -> int:
    """Leave a trace of this fault; how often it has happened now."""
    images, fault = Path(row["uri"]).parent, PurePosixPath(row["image_id"]).stem
    count = fired(images, fault) + 1
    (images.parent / f".{fault}.{count}").touch(exist_ok=False)
    return count


def _dies_once(row: Row, rows: list[Row]) -> None:
    if _mark(row) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def _dies(row: Row, rows: list[Row]) -> None:
    _mark(row)
    os._exit(1)


def _crashes(row: Row, rows: list[Row]) -> None:
    _mark(row)
    os.kill(os.getpid(), signal.SIGSEGV)


def _memory_in_a_batch(row: Row, rows: list[Row]) -> None:
    _mark(row)
    if len(rows) > 1:
        raise MemoryError


def _memory_alone(row: Row, rows: list[Row]) -> None:
    _mark(row)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def _raises(row: Row, rows: list[Row]) -> None:
    _mark(row)
    raise ValueError("this image\nis cursed")


_FAULTS: dict[str, Callable[[Row, list[Row]], None]] = {
    "dies-once": _dies_once,
    "dies": _dies,
    "crashes": _crashes,
    "memory-batch": _memory_in_a_batch,
    "memory-alone": _memory_alone,
    "raises": _raises,
}


class WriterDies(LabelSink):
    """The writer of one part dies between its segments and its labels, that of another after its commit."""

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> dict[str, Any]:
        with_segments_only = Path(self.writer.root).parent / ".writer-before-commit.1"
        committed = Path(self.writer.root).parent / ".writer-after-commit.1"
        real = storage.write_atomic

        def write_atomic(uri: str, data: bytes) -> None:
            if "/labels/" in uri and _first(with_segments_only):
                os._exit(1)
            real(uri, data)

        storage.write_atomic = write_atomic
        try:
            result = super().write(blocks, ctx)
        finally:
            storage.write_atomic = real
        if _first(committed):
            os._exit(1)
        return result


def _first(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class DriverDies(LabelSink):
    """In the write of the third part: the segments are there, the driver is killed, the writer carries on."""

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> dict[str, Any]:
        real, calls = run_lock.owned, 0

        @contextmanager
        def owned(root: str, token: str | None) -> Iterator[None]:
            nonlocal calls
            calls += 1
            if calls == 2 and len(store.LabelStore(root).parts()) >= 2:
                held = json.loads((Path(root) / run_lock.LOCK_NAME).read_text())
                os.kill(held["pid"], signal.SIGKILL)
                time.sleep(5)
            with real(root, token):
                yield

        run_lock.owned = owned
        try:
            return super().write(blocks, ctx)
        finally:
            run_lock.owned = real
