"""The Ray Data graph of `segray export`: parts of the label set > write their images > journal entries."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from typing import TypedDict

import pyarrow as pa

from segray.pipelines.corrections.log import decode_corrections, encode_corrections
from segray.pipelines.engine import ledger
from segray.pipelines.engine.guard import StageLedger
from segray.pipelines.errors import UserError
from segray.pipelines.exporting.writer import Writer
from segray.pipelines.io import run_lock, storage

MAX_TRIES = 3
"""A part that kills its worker this often ends the export."""
CPUS = 1.0
"""Of a task: its threads encode maps and masks, which takes most of its time."""

_STAGE = "export"
_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("finished", pa.large_string()),
        ("error", pa.string()),
        ("exit_code", pa.int32()),
    ]
)
"""Of a part: `journal.Finished` as JSON, or the error that ends the export: Ray Data keeps only its text."""


class Work(TypedDict):
    """A part to write: its name, `Writer.images_of` it as JSON, and their corrections as Parquet."""

    part: str
    images: str
    corrections: bytes


def finished_parts(
    writer: Writer, parts: Sequence[str], workers: int | None, token: str
) -> Generator[tuple[str, str]]:
    """Write parts as tasks; yields the name and `Finished` as JSON of each, in the order in which they end.

    Args:
        writer: with absolute paths.
        parts: of the label set.
        workers: tasks at a time; None: as many as the cluster has CPUs.
        token: of the run lock.

    Raises:
        UserError: as `Writer.write_part`, or a part that kills its worker again and again.
    """
    import ray

    # A block per part: whatever worker is free takes the next one.
    work = ray.data.from_items([work_of(writer, part) for part in parts], override_num_blocks=len(parts))
    with ledger.started() as run_ledger:
        tables = work.map_batches(
            WriteParts(writer.knowing([]), token, run_ledger),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=CPUS,
            compute=ray.data.TaskPoolStrategy(workers),
        ).iter_batches(batch_size=None, batch_format="pyarrow")
        for table in tables:
            for row in table.to_pylist():
                if row["finished"] is None:
                    raise UserError(row["error"], exit_code=row["exit_code"])
                yield row["part"], row["finished"]


def work_of(writer: Writer, part: str) -> Work:
    """What a task is sent of a part."""
    return {
        "part": part,
        "images": json.dumps(writer.images_of(part)),
        "corrections": encode_corrections(writer.corrections_of(part)),
    }


class WriteParts:
    """Rows of `Work` to `_SCHEMA`. A task that Ray runs twice writes the same files again.

    Args:
        writer: that knows no images and no corrections.
        token: of the run lock.
        ledger: counts how often a part is begun.
    """

    def __init__(self, writer: Writer, token: str, ledger: StageLedger) -> None:
        self._writer, self._token, self._ledger = writer, token, ledger

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write the parts of a batch."""
        rows = [self._row(**row) for row in table.to_pylist()]
        return pa.Table.from_pylist(rows, _SCHEMA)

    def _row(self, part: str, images: str, corrections: bytes) -> dict[str, object]:
        try:
            return {"part": part, "finished": self._write(part, images, corrections)}
        except UserError as problem:
            return {"part": part, "error": str(problem), "exit_code": problem.exit_code}

    def _write(self, part: str, images: str, corrections: bytes) -> str:
        if self._ledger.begin_alone(_STAGE, part) > MAX_TRIES:
            where = storage.display(self._writer.source.root)
            raise UserError(f"{part} of {where}: its worker died {MAX_TRIES} times", exit_code=1)
        # A task of a killed run may outlive it for a moment.
        with run_lock.owned(self._writer.out, self._token):
            pass
        writer = self._writer.knowing(json.loads(images), decode_corrections(corrections))
        finished = json.dumps(writer.write_part(part))
        self._ledger.end(_STAGE, [part], 0.0)
        return finished
