"""One Parquet file of a label set as bytes: compression, checksums, and the reason when it is damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

# In the footer, followed by Thrift's header of a 64 byte string and the digest.
_KEY = "segray_sha256"
_MARK = _KEY.encode() + b"\x18\x40"
_EMPTY = b"0" * 64
_MAGIC = b"PAR1"


def encode_part(table: pa.Table, *, row_group_size: int, compressed: bool = True) -> bytes:
    """Parquet bytes of a table, with a checksum of each page and a SHA-256 of the whole file in its footer.

    PNG and JPEG leaves stay uncompressed and without statistics, all else is zstd. Page checksums alone
    would leave the footer unguarded, so the digest is taken over the file with zeros in the digest's place.
    Without `compressed` nothing is: for rows that are so alike that a reader would take them for a bomb.
    """
    sink = pa.BufferOutputStream()
    leaves = [leaf for field in table.schema for leaf in _leaves(field.name, field.type)]
    compact = [leaf for leaf in leaves if not leaf.endswith(".bytes")]
    packed = compact if compressed else []
    writer = pq.ParquetWriter(
        sink,
        table.schema,
        compression={leaf: "ZSTD" if leaf in packed else "NONE" for leaf in leaves},
        use_dictionary=[leaf for leaf in packed if leaf in {"image_id", "status", "error", "run_id"}],
        write_statistics=compact,
        write_page_checksum=True,
    )
    with writer:
        if table.num_rows:  # readers (datasets) fail on a row group of no rows
            writer.write_table(table, row_group_size=row_group_size)
        writer.add_key_value_metadata({_KEY: _EMPTY.decode()})
    data = bytearray(sink.getvalue())
    position = _digest_position(data)
    data[position : position + 64] = _digest(data, position)
    return bytes(data)


def damage(data: bytes) -> str | None:
    """Why the bytes are not a whole, unchanged part; None when they are."""
    if not data:
        return "empty file"
    if len(data) < 12 or data[:4] != _MAGIC or data[-4:] != _MAGIC:
        return "truncated or not Parquet"
    try:
        position = _digest_position(data)
    except ValueError:
        return "changed after it was written (no checksum)"
    if data[position : position + 64] != _digest(data, position):
        return "changed after it was written (checksum differs)"
    return None


def recorded_digest(metadata: pq.FileMetaData) -> str:
    """The SHA-256 in the footer of a part, unchecked; "" where there is none."""
    return (metadata.metadata or {}).get(_KEY.encode(), b"").decode("ascii", "replace")


def _digest_position(data: bytes | bytearray) -> int:
    return data.rindex(_MARK) + len(_MARK)


def _digest(data: bytes | bytearray, position: int) -> bytes:
    view = memoryview(data)
    digest = hashlib.sha256(view[:position])
    digest.update(_EMPTY)
    digest.update(view[position + 64 :])
    return digest.hexdigest().encode()


def _leaves(name: str, kind: pa.DataType) -> Iterator[str]:
    """Names of the Parquet columns of an Arrow column."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{name}.{field.name}", field.type)
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{name}.list.element", kind.value_type)
    else:
        yield name
