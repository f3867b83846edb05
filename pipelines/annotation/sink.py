"""The end of the Ray Data graph: each write task commits one part of the label set."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import Datasink

from segray.pipelines.engine.ledger import RemoteLedger
from segray.pipelines.engine.rows import Row
from segray.pipelines.label_set.store import labels_table, segments_table, write_part

_LABEL_COLUMNS = (
    "image_id",
    "sha256",
    "width",
    "height",
    "label",
    "confidence",
    "class_ids",
    "class_pixels",
    "mean_confidence",
    "labelled_fraction",
    "status",
    "error",
)


class LabelSink(Datasink):
    """Writes blocks of `ENCODED_SCHEMA` as parts.

    Exactly once: a part's name is a hash of its images and a committed part is never written again, so a task
    that Ray runs twice changes nothing. `token` belongs to the run lock: a run that lost it writes no more.
    """

    def __init__(
        self,
        root: str,
        labels: pa.Schema,
        segments: pa.Schema,
        *,
        run_id: str,
        token: str,
        rows_per_part: int,
        ledger: RemoteLedger,
    ) -> None:
        self.root, self.labels, self.segments = root, labels, segments
        self.run_id, self.token, self.rows_per_part, self.ledger = run_id, token, rows_per_part, ledger

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

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> dict[str, Any]:  # noqa: ARG002  Ray's signature
        """Commit the rows of one task as one part."""
        began = time.perf_counter()
        rows = [row for block in blocks for row in pa.table(block).to_pylist()]
        if not rows:
            return {"rows": 0}
        labels, segments = part_tables(rows, self.labels, self.segments, self.run_id)
        name = write_part(self.root, labels, segments, token=self.token)
        self.ledger.committed(Counter(row["status"] for row in rows), time.perf_counter() - began)
        return {"part": name, "rows": len(rows)}


def part_tables(
    rows: list[Row], labels: pa.Schema, segments: pa.Schema, run_id: str
) -> tuple[pa.Table, pa.Table]:
    """Encoded rows (segments nested) as the labels and the segments table, sorted by image_id."""
    ordered = sorted(rows, key=lambda row: row["image_id"])
    return (
        labels_table([_label_row(row, run_id) for row in ordered], labels),
        segments_table([segment for row in ordered for segment in _segment_rows(row)], segments),
    )


def _label_row(row: Row, run_id: str) -> dict[str, object]:
    # Readers of Hugging Face's Image feature open the path where there are no bytes, so it is all or nothing.
    file, segments = row.get("file"), row["segments"]
    image = {"bytes": file, "path": row["image_id"]} if file and row["status"] == "ok" else None
    n_segments = None if segments is None else len(segments)
    values: Mapping[str, object] = row
    columns = {name: values[name] for name in _LABEL_COLUMNS}
    return {**columns, "image": image, "n_segments": n_segments, "run_id": run_id}


def _segment_rows(row: Row) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for segment in row["segments"] or ():
        data = segment["embedding"]
        embedding = None if data is None else np.frombuffer(data, np.float16)
        rows.append({**segment, "image_id": row["image_id"], "embedding": embedding})
    return rows
