"""Read one image out of a tar, a zip or a Parquet file, knowing where it is."""

from __future__ import annotations

import struct
import threading
import zlib
from collections import OrderedDict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem, one_line
from segray.pipelines.io.members import Member
from segray.pipelines.io.parquet_pages import chunk_cost

MAX_FILE_BYTES = 1 << 30
"""Of an image, and of the group of rows that it is read with."""
_HEADER = struct.Struct("<4s5H3I2H")
_LOCAL = b"PK\x03\x04"
_ENCRYPTED = 1
STORED, DEFLATED = 0, 8
"""Methods of a zip archive that are read."""
_RATIO, _FREE = 100, 32 << 20
_PAGES_RATIO, _PAGES_FREE = 8, 16 << 20
_GROUPS_BYTES = 256 << 20


def too_large(size: int, packed: int) -> str | None:
    """Why an image must not be unpacked, told from its sizes; None if it may."""
    if size > MAX_FILE_BYTES:
        return f"too large ({size >> 20} MiB > limit {MAX_FILE_BYTES >> 20} MiB)"
    if size > max(_FREE, _RATIO * packed):
        return f"unpacks from {packed} to {size} bytes"
    return None


def read_member(member: Member) -> bytes:
    """The bytes of an image inside a file.

    Raises:
        ImageProblem: "error" and why.
        OSError: the file cannot be read.
    """
    if member.kind == "tar":
        return _tar_part(member.file, *member.numbers)
    if member.kind == "zip":
        return _zip_part(member.file, *member.numbers)
    try:
        return _groups.read(member.file, *member.numbers)
    except pa.ArrowException as error:
        raise ImageProblem("error", f"cannot be read from its Parquet file ({one_line(error)})") from error


def _tar_part(file: str, offset: int, size: int) -> bytes:
    if problem := too_large(size, size):
        raise ImageProblem("error", problem)
    return _range(file, offset, size)


def _zip_part(file: str, offset: int, packed: int, size: int, crc: int) -> bytes:
    if problem := too_large(max(size, packed), packed):
        raise ImageProblem("error", problem)
    header = _range(file, offset, _HEADER.size)
    signature, _, flags, method, *_, name, extra = _HEADER.unpack(header)
    if signature != _LOCAL or flags & _ENCRYPTED or method not in {STORED, DEFLATED}:
        raise ImageProblem("error", "not where the archive's directory says")
    data = _range(file, offset + _HEADER.size + name + extra, packed)
    if method == DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except zlib.error as error:
            raise ImageProblem("error", f"damaged in its archive ({error})") from error
    if len(data) != size or zlib.crc32(data) != crc:
        raise ImageProblem("error", "damaged in its archive (size or checksum differ)")
    return data


def _range(file: str, offset: int, size: int) -> bytes:
    data = storage.read_range(file, offset, size)
    if len(data) < size:
        raise ImageProblem("error", "its archive is cut off")
    return data


class _Groups:
    """The image columns of the groups of rows that were read last: an image costs its whole group."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, int], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, file: str, column: int, group: int, row: int) -> bytes:
        key = file, column, group
        with self._lock:
            values = self._kept.pop(key, None)
            if values is None:
                values = storage.with_retries(lambda: _read_group(file, column, group), file)
            self._kept[key] = values
            while len(self._kept) > 1 and sum(v.nbytes for v in self._kept.values()) > _GROUPS_BYTES:
                self._kept.popitem(last=False)
        if row >= len(values):
            raise ImageProblem("error", "its Parquet file has fewer rows now")
        value = values[row].as_py()
        if value is None:
            raise ImageProblem("error", "no image in this row")
        return bytes(value)


_groups = _Groups()


def _read_group(file: str, column: int, group: int) -> pa.ChunkedArray:
    with storage.open_input(file) as source:
        schema = pq.read_schema(source)
        leaf = leaf_of(schema.field(column)) if column < len(schema) else ""
        # As a dictionary: an image that each row repeats is in memory once.
        table = pq.ParquetFile(source, read_dictionary=[leaf])
        if not leaf or group >= table.num_row_groups:
            raise ImageProblem("error", "its Parquet file is another one now")
        check_group(source, table.metadata.row_group(group), leaf)
        values = table.read_row_group(group, columns=[leaf])[0]
        if not pa.types.is_struct(values.type):
            return values
        # Flattened, a row without a struct has no bytes either.
        return pa.chunked_array([chunk.flatten()[0] for chunk in values.chunks], values.type.field(0).type)


def leaf_of(field: pa.Field) -> str:
    """The Parquet column with the bytes of an image column."""
    return f"{field.name}.bytes" if pa.types.is_struct(field.type) else field.name


def check_group(source: pa.NativeFile, chunks: Any, leaf: str) -> None:
    """Refuse a group of rows whose images are too large to be held in memory together.

    Raises:
        ImageProblem: how large they are.
        ArrowInvalid: damaged.
    """
    for chunk in map(chunks.column, range(chunks.num_columns)):
        if chunk.path_in_schema == leaf:
            cost = chunk_cost(source, chunk)
            limit = min(MAX_FILE_BYTES, _PAGES_RATIO * cost.packed + _PAGES_FREE)
            if cost.unpacked > limit:
                sizes = f"from {cost.packed} to {cost.unpacked} bytes (limit {limit})"
                raise ImageProblem("error", f"its group of rows unpacks {sizes}")
