"""What the pages of a Parquet file of a stranger unpack to, told by their own headers.

The footer's sizes are not enough, for they may differ from the pages'. So the headers of the pages are
read: what they unpack to, how many values they hold and in which encoding, and how long the texts of a
dictionary are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_FREE = 1 << 20
"""Bytes that texts of a dictionary may repeat to, before they are measured."""
_LARGEST_DICTIONARY = 1 << 24
_FREE_ROWS = 1 << 17
_HEADER = 1 << 14
_LONGEST_HEADER = 1 << 20
_DEEPEST = 8
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_2 = 0, 2, 3
_ENCODING = {_DATA_PAGE: 2, _DATA_PAGE_2: 4}
"""Where the header of a page of data has its encoding."""
_SHARED_PREFIXES = 7
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12


@dataclass(frozen=True)
class Cost:
    """Sizes of a column chunk.

    Attributes:
        packed: bytes of its pages in the file; no more than the file has.
        unpacked: bytes of its pages when they are decompressed.
        in_memory: bytes of all its values as Arrow holds them, at most.
    """

    packed: int
    unpacked: int
    in_memory: int


def check_footer(size: int, metadata: pq.FileMetaData) -> None:
    """Refuse a file that holds far more by its footer than it can by its size.

    Args:
        size: of the file in bytes.
        metadata: its footer.

    Raises:
        pa.ArrowInvalid: column chunks that share bytes, so that the same pages are read any number of times;
            or far more rows than the file has bytes; or other rows than those of its groups.
    """
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise pa.ArrowInvalid(f"{metadata.num_rows} rows, its groups have others")
    if metadata.num_rows > _FREE_ROWS + size:
        raise pa.ArrowInvalid(f"{metadata.num_rows} rows in {size} bytes: it repeats values")
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    places = sorted((_start(chunk), chunk.total_compressed_size) for chunk in chunks)
    if any(length < 0 for _, length in places) or any(
        start + length > following for (start, length), (following, _) in pairwise(places)
    ):
        raise pa.ArrowInvalid("its column chunks share bytes of the file")


def chunk_cost(source: pa.NativeFile, chunk: Any, rows: int | None = None) -> Cost:
    """The sizes of a column chunk, by the headers of its pages.

    Args:
        source: the file.
        chunk: the footer's record of it.
        rows: of its group; None: what values repeat in memory is not of interest.

    Raises:
        pa.ArrowInvalid: the headers are damaged, there are several dictionaries, or values share prefixes:
            then a page of any size unpacks to any other.
        OSError: not readable.
    """
    pages = list(_pages(source, chunk))
    name = chunk.path_in_schema
    if any(min(page.packed, page.unpacked, page.values) < 0 for page in pages):
        raise pa.ArrowInvalid("a page with a negative size")
    if any(page.encoding == _SHARED_PREFIXES for page in pages):
        raise pa.ArrowInvalid(f"column {name} has the encoding DELTA_BYTE_ARRAY")
    if sum(page.dictionary for page in pages) > 1:
        raise pa.ArrowInvalid(f"column {name} has several dictionaries")
    packed, unpacked = sum(page.packed for page in pages), sum(page.unpacked for page in pages)
    repeated = 0 if rows is None else _repeated(source, chunk, pages, rows)
    return Cost(min(packed, source.size()), unpacked, unpacked + repeated)


def _repeated(source: pa.NativeFile, chunk: Any, pages: list[_Page], rows: int) -> int:
    """Bytes that values take besides those of their pages."""
    values = sum(page.values for page in pages if not page.dictionary)
    total = values * _WIDTHS.get(chunk.physical_type, 0)
    if chunk.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
        total += sum(
            values * _longest(source, chunk, page, values, rows) for page in pages if page.dictionary
        )
    return total


@dataclass(frozen=True)
class _Page:
    dictionary: bool
    encoding: int | None
    packed: int
    unpacked: int
    values: int
    start: int


def _longest(source: pa.NativeFile, chunk: Any, page: _Page, values: int, rows: int) -> int:
    """Bytes of the longest entry of a dictionary page, at most."""
    if chunk.physical_type != "BYTE_ARRAY":
        return page.unpacked // max(1, page.values)
    # Each other entry has its length before it.
    longest = page.unpacked - 4 * page.values
    if longest < 0:
        raise pa.ArrowInvalid("a dictionary without room for its entries")
    if values * longest <= _FREE or page.unpacked > _LARGEST_DICTIONARY:
        return longest
    # More entries than rows are none that a program writes, and take long to go through.
    return longest if page.values > rows else _longest_text(source, chunk, page)


def _longest_text(source: pa.NativeFile, chunk: Any, page: _Page) -> int:
    data = source.read_at(page.packed, page.start)
    if chunk.compression != "UNCOMPRESSED":
        data = pa.Codec(chunk.compression.lower()).decompress(data, page.unpacked, asbytes=True)
    offset = longest = 0
    for _ in range(page.values):
        length = int.from_bytes(data[offset : offset + 4], "little")
        offset, longest = offset + 4 + length, max(longest, length)
    return longest


def _start(chunk: Any) -> int:
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        starts.append(chunk.dictionary_page_offset)
    return int(min(starts))


def _pages(source: pa.NativeFile, chunk: Any) -> Iterator[_Page]:
    offset = _start(chunk)
    end = offset + chunk.total_compressed_size
    while offset < end:
        size, header = _header(source, offset)
        content = header.get(5) or header.get(7) or header.get(8) or {}
        encoding = content.get(_ENCODING.get(header[1], 0))
        dictionary, values = header[1] == _DICTIONARY_PAGE, content.get(1, 0)
        page = _Page(dictionary, encoding, header[3], header[2], values, offset + size)
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
