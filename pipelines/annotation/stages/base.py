"""What all stages have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import pyarrow as pa

from segray.pipelines.annotation.stages.raw_columns import RAW_COLUMNS, raw_column, raw_values
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.rows import Row


class Stage(ABC):
    """A stage of a graph: an Arrow table in, an Arrow table out, one row per image in both.

    A subclass loads what it needs in `__init__` and implements `process`. Images whose status is not "ok"
    never reach `process`; they pass through with their reason.

    Attributes:
        name: of the stage in the ledger, the summary and the reasons of failed images.
        schema: of the tables that it returns.
    """

    name: ClassVar[str]
    schema: ClassVar[pa.Schema]

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def __call__(self, table: pa.Table) -> pa.Table:
        """Process the rows of a table and keep the columns of `schema`."""
        return to_table(self.guard.run(self.name, rows_of(table), self.process), self.schema)

    @abstractmethod
    def process(self, rows: list[Row]) -> list[Row]:
        """The same rows, in the same order, with the columns that this stage adds."""


def rows_of(table: pa.Table) -> list[Row]:
    """The rows of a table; what `RAW_COLUMNS` hold stays in the table's memory."""
    names = [name for name in RAW_COLUMNS if name in table.column_names]
    rows: list[Any] = table.drop_columns(names).to_pylist()
    for name in names:
        for row, value in zip(rows, raw_values(table[name]), strict=True):
            row[name] = value
    return rows


def to_table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """The columns of the schema; what a row lacks is null. `RAW_COLUMNS` keep the rows' own memory."""
    listed = list(rows)
    return pa.Table.from_arrays([_column(listed, field) for field in schema], schema=schema)


def _column(rows: list[Any], field: pa.Field) -> pa.Array | pa.ChunkedArray:
    values = [row.get(field.name) for row in rows]
    return raw_column(values) if field.name in RAW_COLUMNS else pa.array(values, field.type)
