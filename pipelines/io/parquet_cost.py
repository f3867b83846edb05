"""What reading a manifest of a stranger may cost, told by its pages' headers before any page is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from segray.pipelines.io.parquet_pages import check_footer, chunk_cost

MAX_TEXT = 8192
"""Characters of an image_id or a URI; file systems end at 4,096."""
_FREE = 32 << 20
_MOST = 1 << 30
_RATIO = 100
"""Text of paths is compressed to a tenth or a fiftieth, not to less."""


def check_pages(source: pa.NativeFile, metadata: pq.FileMetaData, columns: Collection[str], key: str) -> None:
    """Refuse a file whose pages together unpack to far more than it has, or that has more rows than keys.

    Args:
        source: the file.
        metadata: its footer.
        columns: those that will be read.
        key: the one whose values all differ, so that each row costs a byte of it.

    Raises:
        ValueError: which column, and how much; or `check_footer` refuses the file.
        OSError: not readable.
    """
    check_footer(source.size(), metadata)
    packed: Counter[str] = Counter()
    unpacked: Counter[str] = Counter()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            name = column.path_in_schema
            if name not in columns:
                continue
            cost = chunk_cost(source, column)
            packed[name] += cost.packed
            unpacked[name] += cost.unpacked
            if cost.unpacked > _MOST or unpacked[name] > max(_FREE, _RATIO * packed[name]):
                raise ValueError(f"column {name} unpacks from {packed[name]} to {unpacked[name]} bytes")
            if name == key and group.num_rows > cost.unpacked:
                raise ValueError(
                    f"{group.num_rows} rows in {cost.unpacked} bytes of {key}: it repeats values"
                )


def check_text(batch: pa.RecordBatch) -> None:
    """Refuse text that is too long, before it is repeated row by row.

    Args:
        batch: text columns as dictionaries.

    Raises:
        ValueError: which column.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if isinstance(column, pa.DictionaryArray) and len(column.dictionary):
            longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
            if longest > MAX_TEXT:
                raise ValueError(f"column {name} holds {longest} characters in one row (limit {MAX_TEXT})")


def decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Dictionaries as plain text, row by row."""
    columns = [c.dictionary_decode() if isinstance(c, pa.DictionaryArray) else c for c in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds whole numbers or floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
