"""`segray annotate` with models that only sleep.

SAM's stand-in sleeps so long for an image and finds nothing; CLIP's names that nothing at once. All else is
the real thing: manifest, reading and decoding, actors, ledger, encoding, parts, commits.
"""

from __future__ import annotations

import os
import time
from typing import Any
from unittest import mock

import pyarrow as pa

from segray.models.label_map import SegmentClasses
from segray.models.masks import pack
from segray.pipelines.annotation import graph
from segray.pipelines.annotation.stages.encode import (
    CLASSIFIED_SCHEMA,
    SEGMENTED_SCHEMA,
    TableStage,
    classes_to_bytes,
)
from segray.pipelines.cli import main
from segray.pipelines.engine.guard import Row

SECONDS = "SEGRAY_STAND_IN_SECONDS"


class SleepingSam:
    """In place of `SegmentImages`."""

    def __init__(self, *, book: Any, max_tries: int, **_: Any) -> None:
        self._seconds = float(os.environ[SECONDS])
        self._table = TableStage("sam", self.segment, book, max_tries)

    def __call__(self, table: pa.Table) -> pa.Table:
        """READ_SCHEMA to SEGMENTED_SCHEMA."""
        return self._table.apply(table, SEGMENTED_SCHEMA)

    def segment(self, rows: list[Row]) -> list[Row]:
        """No segments, after a while."""
        time.sleep(self._seconds * len(rows))
        return [{**row, "segments": pack([])} for row in rows]


class IdleClip:
    """In place of `ClassifySegments`."""

    def __init__(self, *, book: Any, max_tries: int, **_: Any) -> None:
        empty: dict[str, Any] = {name: [] for name in SegmentClasses.__dataclass_fields__}
        self._naming = classes_to_bytes(SegmentClasses(**empty))
        self._table = TableStage("clip", self.name, book, max_tries)

    def __call__(self, table: pa.Table) -> pa.Table:
        """SEGMENTED_SCHEMA to CLASSIFIED_SCHEMA."""
        return self._table.apply(table, CLASSIFIED_SCHEMA)

    def name(self, rows: list[Row]) -> list[Row]:
        """Names for no segments."""
        return [{**row, "pixels": None, "naming": self._naming, "embeddings": b""} for row in rows]


def run(words: list[str]) -> None:
    """`SECONDS annotate ...`: the command line, with the sleepers in place of the models."""
    # Ray's workers are started with this environment.
    os.environ[SECONDS] = words[0]
    with mock.patch.multiple(graph, SegmentImages=SleepingSam, ClassifySegments=IdleClip):
        main(words[1:])
