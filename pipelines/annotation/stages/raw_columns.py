"""Columns of pixels, which stages pass on without a copy: one image of 100 megapixels has 300 MB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

RAW_COLUMNS = ("pixels", "label", "confidence")

_BINARY = pa.binary()


def raw(array: NDArray[np.generic]) -> memoryview:
    """The bytes of an array, which they keep alive."""
    return array.reshape(-1).data


def raw_values(column: pa.ChunkedArray) -> Iterator[memoryview | None]:
    """The values of a binary column, each a part of the column's own memory."""
    for chunk in column.cast(_BINARY).chunks:
        if not len(chunk):
            continue
        _, offsets, data = chunk.buffers()
        ends = np.frombuffer(offsets, np.int32, len(chunk) + 1, 4 * chunk.offset).tolist()
        whole = memoryview(data or b"")
        for valid, begin, end in zip(chunk.is_valid().to_pylist(), ends[:-1], ends[1:], strict=True):
            yield whole[begin:end] if valid else None


def raw_column(values: Iterable[bytes | memoryview | None]) -> pa.ChunkedArray:
    """A binary column with a chunk for each value: the memory of the value itself."""
    return pa.chunked_array([_chunk(value) for value in values], _BINARY)


def _chunk(value: bytes | memoryview | None) -> pa.Array:
    if value is None:
        return pa.nulls(1, _BINARY)
    data = pa.py_buffer(value)
    return pa.Array.from_buffers(_BINARY, 1, [None, pa.py_buffer(np.array([0, data.size], np.int32)), data])
