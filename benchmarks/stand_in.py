"""`segray annotate` with models that only sleep.

SAM's stand-in sleeps so long for an image and finds nothing; CLIP's names that nothing at once. All else is
the real thing: manifest, reading and decoding, actors, ledger, encoding, parts, commits.
"""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

from segray.models.label_map import SegmentClasses
from segray.models.masks import pack
from segray.pipelines.annotation import model_stages
from segray.pipelines.annotation.stages.base import Stage
from segray.pipelines.annotation.stages.schemas import CLASSIFIED_SCHEMA, SEGMENTED_SCHEMA, classes_to_bytes
from segray.pipelines.cli import main
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.rows import Row


def sleeping_sam(seconds: float) -> type[Stage]:
    """In place of `SegmentImages`: sleeps so many seconds per image, and finds nothing.

    Made by a call, so that Ray ships the class with its seconds: a cluster that runs already has an
    environment of its own.
    """

    class SleepingSam(Stage):
        name, schema = "sam", SEGMENTED_SCHEMA

        def __init__(self, *, guard: Guard, **_: object) -> None:
            super().__init__(guard)

        def process(self, rows: list[Row]) -> list[Row]:
            time.sleep(seconds * len(rows))
            return [{**row, "packed_segments": pack([])} for row in rows]

    return SleepingSam


class IdleClip(Stage):
    """In place of `ClassifySegments`."""

    name, schema = "clip", CLASSIFIED_SCHEMA

    def __init__(self, *, guard: Guard, **_: object) -> None:
        super().__init__(guard)
        empty: dict[str, Any] = {name: [] for name in SegmentClasses.__dataclass_fields__}
        self._classes = classes_to_bytes(SegmentClasses(**empty))

    def process(self, rows: list[Row]) -> list[Row]:
        """Classes of no segments."""
        return [{**row, "classes": self._classes, "embeddings": b""} for row in rows]


def run(words: list[str]) -> None:
    """`SECONDS annotate ...`: the command line, with the sleepers in place of the models."""
    sam = sleeping_sam(float(words[0]))
    with mock.patch.multiple(model_stages, SegmentImages=sam, ClassifySegments=IdleClip):
        main(words[1:])
