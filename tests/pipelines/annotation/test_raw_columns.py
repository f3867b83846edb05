"""Pixels between stages: the same memory, whatever Arrow made of the column on its way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from segray.pipelines.annotation.stages.base import rows_of, to_table
from segray.pipelines.annotation.stages.raw_columns import raw, raw_column, raw_values
from segray.pipelines.annotation.stages.schemas import READ_SCHEMA, image_view
from segray.pipelines.engine.rows import Row

VALUES = [b"abc", None, b"", b"de", None]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda column: column, VALUES),
        (lambda column: pa.chunked_array([column.combine_chunks()]), VALUES),
        (lambda column: pa.chunked_array([column.combine_chunks().slice(2, 2)]), VALUES[2:4]),
        (lambda column: column.slice(1, 3), VALUES[1:4]),
        (lambda column: column.cast(pa.large_binary()), VALUES),
        (lambda column: pa.chunked_array([column.combine_chunks().slice(1, 1)]), [None]),
        (lambda column: column.slice(0, 0), []),
    ],
)
def test_values_are_read_from_any_layout(
    change: Callable[[pa.ChunkedArray], pa.ChunkedArray], expected: list[bytes | None]
) -> None:
    column = change(raw_column(VALUES))
    column.validate(full=True)
    assert [value if value is None else bytes(value) for value in raw_values(column)] == expected


def test_pixels_pass_through_a_stage_in_their_own_memory() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    good: Row = {
        "image_id": "a",
        "status": "ok",
        "width": 4,
        "height": 2,
        "reduced": 1,
        "pixels": raw(pixels),
    }
    table = to_table([good, {"image_id": "b", "status": "error", "error": "missing"}], READ_SCHEMA)
    assert table.schema == READ_SCHEMA
    for _ in range(2):
        row, bad = rows_of(table)
        assert np.array_equal(image_view(row), pixels)
        assert np.shares_memory(image_view(row), pixels)
        assert (bad["pixels"], bad["error"]) == (None, "missing")
        table = to_table([row, bad], READ_SCHEMA)
