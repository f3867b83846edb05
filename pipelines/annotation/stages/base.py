"""What all stages have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import pyarrow as pa

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
        return to_table(self.guard.run(self.name, table.to_pylist(), self.process), self.schema)

    @abstractmethod
    def process(self, rows: list[Row]) -> list[Row]:
        """The same rows, in the same order, with the columns that this stage adds."""


def to_table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """The columns of the schema; what a row lacks is null."""
    columns = [{name: row.get(name) for name in schema.names} for row in rows]
    return pa.Table.from_pylist(columns, schema=schema)
