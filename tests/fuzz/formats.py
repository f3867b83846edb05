"""Changes inside the formats: rows and footers of Parquet, PNG headers, tensors, archives, JSON and YAML."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from tests.fuzz.edits import Cut, Edit, damaged, edited


def edited_rows(parquet: bytes, changes: Sequence[Edit]) -> bytes:
    """`edited_table` of a Parquet file."""
    return _parquet(edited_table(pq.read_table(pa.BufferReader(parquet)), changes))


def edited_table(table: pa.Table, changes: Sequence[Edit]) -> pa.Table:
    """The table with changed rows; a column that no longer has its type gets another one."""
    rows = [row for row in edited(table.to_pylist(), changes) if isinstance(row, dict)]
    columns = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        kind = table.schema.field(name).type if name in table.schema.names else None
        columns[_utf8(name)] = _array([row.get(name) for row in rows], kind)
    return pa.table(columns).replace_schema_metadata(table.schema.metadata)


def edited_footer(parquet: bytes, changes: Sequence[Edit]) -> bytes:
    """The table with changed provenance, the JSON text in its footer."""
    table = pq.read_table(pa.BufferReader(parquet))
    record = json.loads(table.schema.metadata[b"segray"])
    text = edited_json(json.dumps(record).encode(), changes)
    return _parquet(table.replace_schema_metadata({b"segray": text}))


def _array(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    for wanted in (kind, None):
        with suppress(pa.ArrowException, ValueError, TypeError, OverflowError, RecursionError):
            array = pa.array(values, wanted)
            # Not everything that Arrow holds can be written: structs without fields cannot.
            _parquet(pa.table({"column": array}))
            return array
    return pa.array([_text(value) for value in values])


def _text(value: object) -> str:
    try:
        return _utf8(str(value)[:1000])
    except RecursionError:
        return "[" * 1000


def _utf8(text: str) -> str:
    return text.encode(errors="replace").decode()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def edited_json(text: bytes, changes: Sequence[Edit]) -> bytes:
    """JSON with changed values: NaN and Infinity as Python writes them, very deep trees not at all."""
    tree = edited(json.loads(text), changes)
    try:
        return json.dumps(tree).encode()
    except RecursionError:
        return b"[" * 100_000


def edited_yaml(text: bytes, changes: Sequence[Edit]) -> bytes:
    """YAML with changed values, written plainly, so that the reader guesses their types."""
    tree = edited(yaml.safe_load(text), changes)
    try:
        return "".join(f"{key}: {json.dumps(value)}\n" for key, value in dict(tree).items()).encode()
    except RecursionError:
        return b"images: " + b"[" * 5_000


@dataclass(frozen=True)
class Png:
    """A gray PNG whose header may lie.

    Attributes:
        width: in the header.
        height: in the header.
        depth: bits per pixel.
        colour: PNG's type of colours; 0 is gray.
        pixels: bytes of zeros that its data inflate to.
    """

    width: int
    height: int
    depth: int
    colour: int
    pixels: int

    def data(self) -> bytes:
        """The file."""
        header = struct.pack(">IIBBBBB", self.width, self.height, self.depth, self.colour, 0, 0, 0)
        body = zlib.compress(bytes(self.pixels), 1)
        chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


pngs = st.builds(
    Png,
    st.sampled_from([0, 1, 63, 64, 65, 30_000, 2**31 - 1, 2**32 - 1]),
    st.sampled_from([0, 1, 48, 12_000_000, 2**31 - 1]),
    st.sampled_from([1, 8, 16, 0, 255]),
    st.sampled_from([0, 2, 3, 6, 255]),
    st.sampled_from([0, 48 * 65, 100_000_000]),
)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def edited_tensors(safetensors: bytes, changes: Sequence[Edit]) -> bytes:
    """A safetensors file with changed names, types, shapes and offsets."""
    length = struct.unpack("<Q", safetensors[:8])[0]
    header = edited_json(safetensors[8 : 8 + length], changes)
    return struct.pack("<Q", len(header)) + header + safetensors[8 + length :]


def repacked(archive: bytes, changes: Sequence[Cut], deflated: bool) -> bytes:
    """A .pth archive whose pickle is damaged, with checksums that fit."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = damaged(old.read(name), changes) if name.endswith("data.pkl") else old.read(name)
            new.writestr(name, data, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
    return target.getvalue()


class _Program:
    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, ("antigravity",)


PICKLED_PROGRAM = pickle.dumps(_Program())
"""A pickle that imports a module which opens a web page."""


def with_checksums(files: dict[str, bytes], folder: str, changes: Sequence[Edit] = ()) -> dict[str, bytes]:
    """A checkpoint whose state.json has the checksums of its files as they are now, and other changes."""
    name = f"{folder}/state.json"
    state = json.loads(files[name])
    for file in state["sha256"]:
        state["sha256"][file] = hashlib.sha256(files[f"{folder}/{file}"]).hexdigest()
    return {**files, name: edited_json(json.dumps(state).encode(), changes)}
