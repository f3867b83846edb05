"""Read a part of a label set that may come from anyone: kilobytes can unpack to any amount of memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from segray.pipelines.io.parquet_pages import check_footer, chunk_cost

MAX_UNPACKED = 1 << 24
"""Bytes that anything may unpack to."""
MAX_RATIO = 8
"""What is read at once may unpack to so many times its bytes in the file, besides."""
MAX_ROWS = 1 << 17
"""Rows of a row group."""


def _null_bytes(kind: pa.DataType) -> int:
    if pa.types.is_fixed_size_list(kind):
        inner = kind.value_type
        width: int = inner.bit_width // 8 if pa.types.is_primitive(inner) else _null_bytes(inner)
        return int(kind.list_size * max(1, width))
    if pa.types.is_struct(kind):
        return sum(_null_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return 0


@contextmanager
def _names_are_text() -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid("a column whose name is no text") from error


class PartReader(pq.ParquetFile):
    """A Parquet file whose reads are refused where they would unpack to far more than the file holds.

    Args:
        source: the open file, or its bytes.

    Raises:
        pa.ArrowInvalid: its footer is damaged, or made to harm.
    """

    def __init__(self, source: pa.NativeFile) -> None:
        with _names_are_text():
            super().__init__(source, page_checksum_verification=True)
        self._source = source
        check_footer(source.size(), self.metadata)

    def read_row_group(self, i: int, columns: Sequence[str] | None = None, **options: object) -> pa.Table:
        """As ParquetFile's.

        Raises:
            pa.ArrowInvalid: too large, or not readable.
        """
        self.check([i], columns)
        return super().read_row_group(i, columns=columns, **options)

    def read(self, columns: Sequence[str] | None = None, **options: object) -> pa.Table:
        """As ParquetFile's.

        Raises:
            pa.ArrowInvalid: too large, or not readable.
        """
        self.check(range(self.num_row_groups), columns)
        return super().read(columns=columns, **options)

    def groups_of(self, rows: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
        """The row groups that hold some rows of the file, each with the places of these rows in it."""
        wanted, start = sorted(rows), 0
        for group in range(self.num_row_groups):
            end = start + self.metadata.row_group(group).num_rows
            if inside := [row - start for row in wanted if start <= row < end]:
                yield group, inside
            start = end

    def check(self, groups: Iterable[int], columns: Sequence[str] | None) -> None:
        """Refuse row groups that together are too large.

        Raises:
            pa.ArrowInvalid: too large, or not readable.
        """
        with _names_are_text():
            self._check(groups, columns)

    def _least_bytes(self, names: Collection[str] | None) -> int:
        """Bytes of a row of nulls: lists of a fixed size have that size also where the file has no value."""
        schema = self.schema_arrow
        return sum(_null_bytes(field.type) for field in schema if names is None or field.name in names)

    def _check(self, groups: Iterable[int], columns: Sequence[str] | None) -> None:
        names = None if columns is None else {name.partition(".")[0] for name in columns}
        packed = unpacked = 0
        for group in groups:
            chunks = self.metadata.row_group(group)
            if chunks.num_rows > MAX_ROWS:
                raise pa.ArrowInvalid(f"{chunks.num_rows} rows in a group (allowed: at most {MAX_ROWS})")
            for index in range(chunks.num_columns):
                chunk = chunks.column(index)
                if names is None or chunk.path_in_schema.partition(".")[0] in names:
                    cost = chunk_cost(self._source, chunk, chunks.num_rows)
                    packed, unpacked = packed + cost.packed, unpacked + cost.in_memory
            unpacked += chunks.num_rows * self._least_bytes(names)
            # Chunks may name the same bytes of the file.
            packed = min(packed, self._source.size())
            if unpacked > MAX_RATIO * packed + MAX_UNPACKED:
                allowed = f"{MAX_RATIO} times as many and {MAX_UNPACKED}"
                raise pa.ArrowInvalid(f"{packed} bytes unpack to {unpacked} (allowed: {allowed})")
