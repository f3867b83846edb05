"""Read a Parquet file that may come from anyone: a few kilobytes can unpack to any amount of memory.

The footer's own sizes are not enough, for they may differ from the pages'. So the headers of the pages are
read: what they unpack to, how many values they hold, and how long the texts of a dictionary are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAX_UNPACKED = 1 << 24
"""Bytes that anything may unpack to."""
MAX_RATIO = 8
"""What is read at once may unpack to so many times its bytes in the file, besides."""
MAX_ROWS = 1 << 17
"""Rows of a row group."""

_HEADER = 1 << 14
_LONGEST_HEADER = 1 << 20
_DEEPEST = 8
_DICTIONARY_PAGE = 2
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12


class PartReader(pq.ParquetFile):
    """A Parquet file whose reads are refused where they would unpack to far more than the file holds.

    Args:
        source: the open file, or its bytes.
    """

    def __init__(self, source: pa.NativeFile) -> None:
        super().__init__(source, page_checksum_verification=True)
        self._source = source

    def read_row_group(self, i: int, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """As ParquetFile's.

        Raises:
            pa.ArrowInvalid: too large, or not readable.
        """
        self.check([i], columns)
        return super().read_row_group(i, columns=columns, **options)

    def read(self, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """As ParquetFile's.

        Raises:
            pa.ArrowInvalid: too large, or not readable.
        """
        self.check(range(self.num_row_groups), columns)
        return super().read(columns=columns, **options)

    def check(self, groups: Iterable[int], columns: Sequence[str] | None) -> None:
        """Refuse row groups that together are too large.

        Raises:
            pa.ArrowInvalid: too large, or not readable.
        """
        names = None if columns is None else {name.partition(".")[0] for name in columns}
        packed = unpacked = 0
        for group in groups:
            chunks = self.metadata.row_group(group)
            if chunks.num_rows > MAX_ROWS:
                raise pa.ArrowInvalid(f"{chunks.num_rows} rows in a group (allowed: at most {MAX_ROWS})")
            for index in range(chunks.num_columns):
                chunk = chunks.column(index)
                if names is None or chunk.path_in_schema.partition(".")[0] in names:
                    packed += chunk.total_compressed_size
                    unpacked += _unpacked(self._source, chunk)
            if unpacked > MAX_RATIO * packed + MAX_UNPACKED:
                allowed = f"{MAX_RATIO} times as many and {MAX_UNPACKED}"
                raise pa.ArrowInvalid(f"{packed} bytes unpack to {unpacked} (allowed: {allowed})")


@dataclass(frozen=True)
class _Page:
    dictionary: bool
    packed: int
    unpacked: int
    values: int
    start: int


def _unpacked(source: pa.NativeFile, chunk: Any) -> int:
    """Bytes that a column chunk takes in memory, at most."""
    pages = list(_pages(source, chunk))
    if any(min(page.packed, page.unpacked, page.values) < 0 for page in pages):
        raise pa.ArrowInvalid("a page with a negative size")
    values = sum(page.values for page in pages if not page.dictionary)
    total = sum(page.unpacked for page in pages) + values * _WIDTHS.get(chunk.physical_type, 0)
    for page in pages:
        if not page.dictionary or chunk.physical_type not in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
            continue
        longest = page.unpacked
        if values * longest > MAX_UNPACKED // 16 and page.unpacked <= MAX_UNPACKED:
            longest = _longest_text(source, chunk, page)
        total += values * longest
    return total


def _longest_text(source: pa.NativeFile, chunk: Any, page: _Page) -> int:
    """Bytes of the longest entry of a dictionary page."""
    data = source.read_at(page.packed, page.start)
    if chunk.compression != "UNCOMPRESSED":
        data = pa.Codec(chunk.compression.lower()).decompress(data, page.unpacked, asbytes=True)
    if chunk.physical_type != "BYTE_ARRAY":
        return len(data) // max(1, page.values)
    offset = longest = 0
    while offset + 4 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "little")
        offset, longest = offset + 4 + length, max(longest, length)
    return longest


def _pages(source: pa.NativeFile, chunk: Any) -> Iterator[_Page]:
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        starts.append(chunk.dictionary_page_offset)
    offset = min(starts)
    end = offset + chunk.total_compressed_size
    while offset < end:
        size, header = _header(source, offset)
        content = header.get(5) or header.get(7) or header.get(8) or {}
        page = _Page(header[1] == _DICTIONARY_PAGE, header[3], header[2], content.get(1, 0), offset + size)
        yield page
        offset = page.start + max(0, page.packed)


def _header(source: pa.NativeFile, offset: int) -> tuple[int, dict[int, Any]]:
    """Bytes and content of a page's header."""
    for size in (_HEADER, _LONGEST_HEADER):
        reader = _Thrift(source.read_at(size, offset))
        try:
            header = reader.struct()
            if all(isinstance(header.get(field), int) for field in (1, 2, 3)):
                return reader.offset, header
        except IndexError:
            continue
    raise pa.ArrowInvalid("a page without a header")


class _Thrift:
    """The compact protocol of Thrift, as far as headers of pages use it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields by id."""
        if depth > _DEEPEST:
            raise IndexError
        fields: dict[int, Any] = {}
        field = 0
        while byte := self._byte():
            kind, delta = byte & 15, byte >> 4
            field = field + delta if delta else self._integer()
            fields[field] = kind == 1 if kind in _BOOLEANS else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _BYTE:
            return self._byte()
        if kind in _INTEGERS:
            return self._integer()
        if kind == _DOUBLE:
            return self._skip(8)
        if kind == _BINARY:
            return self._skip(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in _LISTS:
            return self._list(depth)
        raise IndexError

    def _list(self, depth: int) -> None:
        byte = self._byte()
        count = byte >> 4 if byte >> 4 < 15 else self._varint()
        for _ in range(count):
            self._byte() if byte & 15 in _BOOLEANS else self._value(byte & 15, depth + 1)

    def _byte(self) -> int:
        self.offset += 1
        return self._data[self.offset - 1]

    def _skip(self, size: int) -> None:
        self.offset += size
        if self.offset > len(self._data):
            raise IndexError

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise IndexError
