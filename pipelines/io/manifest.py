"""The manifest: a small Parquet file of the images of a run, sorted by image_id, each exactly once."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import check_image_id
from segray.pipelines.io.parquet_cost import check_pages, check_text, decoded, is_number, is_text
from segray.pipelines.io.received import absolute_uri, check_received_uri

MANIFEST = "manifest.parquet"
"""Its name in a label set."""

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("mtime", pa.float64()),
        pa.field("problem", pa.string()),
        pa.field("mask_uri", pa.string()),
    ]
)
_TEXTS = ("image_id", "uri", "problem", "mask_uri")
_BATCH = 20_000
_ROWS_AS_TEXT = 1_000


class ManifestRow(TypedDict, total=False):
    """A row of the Parquet file, not yet checked."""

    image_id: object
    uri: object
    size: object
    mtime: object
    problem: object
    mask_uri: object


@dataclass(frozen=True)
class ImageRef:
    """One image of a source.

    Attributes:
        image_id: POSIX path under the root, with control characters and bytes that are not UTF-8 as %XX.
        uri: absolute path (file:// URI where the path is not UTF-8) or URI of the file.
        size: bytes; 0 where unknown.
        mtime: seconds since 1970; 0.0 where unknown.
        problem: why it must not be read, the reason of a "skipped" row; None for a plain file.
        mask_uri: its hand-made mask, where the source has one.
    """

    image_id: str
    uri: str
    size: int = 0
    mtime: float = 0.0
    problem: str | None = None
    mask_uri: str | None = None


def write_manifest(refs: Iterable[ImageRef], path: str, previous: str | None = None) -> int:
    """Write a manifest atomically, and count its rows.

    Images of `previous` that `refs` no longer has are kept with their old uri: labelled images stay in the
    label set, and the others become "missing" rows instead of vanishing silently.

    Args:
        refs: strictly ascending by image_id, as `sources.list_images` gives them.
        path: local path or URI; may be that of `previous`.
        previous: manifest of an earlier run; it may not exist yet.

    Raises:
        UserError: an image_id is listed twice, or the file cannot be written.
        ValueError: `refs` are not sorted.
    """
    old = read_manifest(previous) if previous is not None and storage.exists(previous) else iter(())
    rows = _merge(refs, old)
    sink, count = pa.BufferOutputStream(), 0
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        while batch := list(islice(rows, _BATCH)):
            columns = {name: [getattr(ref, name) for ref in batch] for name in SCHEMA.names}
            writer.write_batch(pa.RecordBatch.from_pydict(columns, SCHEMA))
            count += len(batch)
    storage.write_atomic(path, sink.getvalue().to_pybytes())
    return count


def _merge(new: Iterable[ImageRef], old: Iterable[ImageRef]) -> Iterator[ImageRef]:
    """Both sorted streams as one; where both have an id, the new one."""
    streams = (((ref.image_id, False, ref) for ref in new), ((ref.image_id, True, ref) for ref in old))
    last = ""
    for image_id, is_old, ref in heapq.merge(*streams, key=lambda item: item[:2]):
        if image_id < last:
            raise ValueError(f"images are not sorted: {image_id!r} after {last!r}")
        if image_id != last:
            yield ref
        elif not is_old:
            raise UserError(f"images: image_id {image_id!r} is listed twice; each must be unique")
        last = image_id


def read_manifest(uri: str) -> Iterator[ImageRef]:
    """The rows of a manifest in their order, batch by batch.

    Only the columns image_id and uri are needed. A relative uri starts at the manifest's folder.

    Raises:
        UserError: the file is missing or damaged, lacks a column, or holds an empty or unsafe value.
    """
    where = f"manifest {storage.display(uri)}"
    with _refusing(where):
        for batch in _batches(uri, where, SCHEMA.names):
            yield from (_ref(row, uri, where) for row in batch.to_pylist())


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """Turn what a damaged or hostile manifest raises into one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{where}: no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{where}: unreadable ({str(error).partition(chr(10))[0]})") from error
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: refused ({str(error).partition(chr(10))[0]})") from error


def read_ids(uri: str) -> list[str]:
    """The ids of a manifest, as they are in it.

    Raises:
        UserError: as `read_manifest`.
    """
    where = f"manifest {storage.display(uri)}"
    with _refusing(where):
        ids = [
            value for batch in _batches(uri, where, ["image_id"]) for value in batch["image_id"].to_pylist()
        ]
    return [_text("image_id", value, where) for value in ids]


def _batches(uri: str, where: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns, as plain text and numbers, a thousand rows at a time."""
    with _open(uri, where) as file:
        columns = [name for name in names if name in file.schema_arrow.names]
        for batch in file.iter_batches(_BATCH, columns=columns):
            check_text(batch)
            for start in range(0, len(batch), _ROWS_AS_TEXT):
                yield decoded(batch.slice(start, _ROWS_AS_TEXT))


def _open(uri: str, where: str) -> pq.ParquetFile:
    source = storage.open_input(uri)
    metadata = pq.read_metadata(source)
    schema = metadata.schema.to_arrow_schema()
    if missing := [name for name in ("image_id", "uri") if name not in schema.names]:
        hint = " (a .txt or .csv list of paths needs no image_id)" * ("image_id" in missing)
        raise UserError(f"{where}: no column {' and '.join(missing)}; it has {', '.join(schema.names)}{hint}")
    for name in (name for name in SCHEMA.names if name in schema.names):
        kind = schema.field(name).type
        # A number as image_id or uri is refused with its row.
        text, number = name in _TEXTS, name not in ("problem", "mask_uri")
        if not (pa.types.is_null(kind) or (text and is_text(kind)) or (number and is_number(kind))):
            raise UserError(f"{where}: column {name} of {kind} is not {'text' if text else 'a number'}")
    check_pages(source, metadata, SCHEMA.names, "image_id")
    texts = [name for name in _TEXTS if name in schema.names and is_text(schema.field(name).type)]
    # As dictionaries: a text that each row repeats is in memory once.
    return pq.ParquetFile(source, metadata=metadata, read_dictionary=texts, page_checksum_verification=True)


def read_received(uri: str, roots: Sequence[str]) -> Iterator[ImageRef]:
    """`read_manifest`, of rows that are not this run's own: each must name files below the roots.

    Args:
        uri: of the manifest.
        roots: folders and files of the user, see `received.check_received_uri`.

    Raises:
        UserError: as `read_manifest`, and for a row that names anything else.
    """
    for number, ref in enumerate(read_manifest(uri), 1):
        try:
            yield _allowed(ref, roots)
        except UserError as error:
            row = f"row {number} ({storage.display(ref.image_id)})"
            raise UserError(f"manifest {storage.display(uri)}: {row}: {error}") from None


def _ref(row: ManifestRow, manifest: str, where: str) -> ImageRef:
    image_id, uri = (_text(name, row.get(name), where) for name in ("image_id", "uri"))
    check_image_id(image_id, where)
    return ImageRef(
        image_id,
        absolute_uri(uri, manifest),
        int(_number("size", row.get("size"), where)),
        _number("mtime", row.get("mtime"), where),
        _text("problem", problem, where) if (problem := row.get("problem")) else None,
        absolute_uri(_text("mask_uri", mask, where), manifest) if (mask := row.get("mask_uri")) else None,
    )


def _allowed(ref: ImageRef, roots: Sequence[str]) -> ImageRef:
    mask = check_received_uri(ref.mask_uri, roots) if ref.mask_uri else None
    return replace(ref, uri=check_received_uri(ref.uri, roots), mask_uri=mask)


def _text(name: str, value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        shown = repr(value)[:100]
        raise UserError(f"{where}: {name} {shown} is not text; each row needs an image_id and a uri")
    return value


def _number(name: str, value: object, where: str) -> float:
    if value is None:
        return 0.0
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: {name} {repr(value)[:100]} is not a number")
    return value
