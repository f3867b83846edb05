"""Encoded images become a part of the label set."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.engine.ledger import Ledger, RemoteLedger
from segray.pipelines.engine.rows import Row
from segray.pipelines.label_set.schema import labels_schema, segments_schema
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


@dataclass(frozen=True)
class PartWriter:
    """Commits encoded images as parts.

    Exactly once: a part's name is a hash of its images and a committed part is never written again, so
    writing the same images twice changes nothing.

    Attributes:
        root: of the label set.
        labels: schema of the labels table.
        segments: schema of the segments table.
        token: of the run lock: a run that lost it writes no more.
        ledger: counts what is written.
        run_id: stored with every row.
    """

    root: str
    labels: pa.Schema
    segments: pa.Schema
    token: str
    ledger: Ledger | RemoteLedger
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @classmethod
    def of(cls, prepared: Prepared, token: str, ledger: Ledger | RemoteLedger) -> PartWriter:
        """The writer of a run."""
        config, record = prepared.config, prepared.provenance
        segments = segments_schema(prepared.dim if config.embeddings else None, record)
        return cls(config.out, labels_schema(record), segments, token, ledger)

    def write(self, rows: list[Row]) -> str:
        """Commit the rows, at least one, as one part; its name."""
        began = time.perf_counter()
        labels, segments = part_tables(rows, self.labels, self.segments, self.run_id)
        name = write_part(self.root, labels, segments, token=self.token)
        self.ledger.committed(Counter(row["status"] for row in rows), time.perf_counter() - began)
        return name


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
