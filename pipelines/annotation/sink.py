"""The end of the Ray Data graph: each write task commits one part of the label set."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
from ray.data import Datasink

from segray.pipelines.annotation.parts import PartWriter


class LabelSink(Datasink):
    """Writes blocks of `ENCODED_SCHEMA` as parts; a task that Ray runs twice changes nothing."""

    def __init__(self, writer: PartWriter, rows_per_part: int) -> None:
        self.writer, self.rows_per_part = writer, rows_per_part

    @property
    def min_rows_per_write(self) -> int | None:
        """Ray Data gathers so many rows before it calls `write`."""
        return self.rows_per_part

    @property
    def supports_distributed_writes(self) -> bool:
        """Parts are independent of each other, so any worker may write one."""
        return True

    def get_name(self) -> str:
        """Shown in Ray's statistics."""
        return "LabelStore"

    def write(self, blocks: Iterable[pa.Table], ctx: object) -> dict[str, object]:  # noqa: ARG002  Ray's signature
        """Commit the rows of one task as one part."""
        rows = [row for block in blocks for row in pa.table(block).to_pylist()]
        return {"part": self.writer.write(rows), "rows": len(rows)} if rows else {"rows": 0}
