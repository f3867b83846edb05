"""Read: fetch and decode images on CPUs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa

from segray.pipelines.annotation.stages.base import Stage
from segray.pipelines.annotation.stages.raw_columns import raw
from segray.pipelines.annotation.stages.schemas import READ_SCHEMA
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.rows import Row
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode_image
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.pending import PENDING_COLUMNS
from segray.pipelines.io.sources import read_allowed

READ_BYTES = 64 * 2**20
"""Decoded pixels that a read task holds at a time: three photographs of 7 megapixels."""
_PENDING = pa.schema([(name, pa.string()) for name in PENDING_COLUMNS])


class ReadImages(Stage):
    """Rows of the list of images to decoded images; an image that cannot be read gets its reason."""

    name, schema = "read", READ_SCHEMA

    def __init__(self, options: ImageOptions, embed_images: bool, guard: Guard) -> None:
        super().__init__(guard)
        self._options, self._embed_images = options, embed_images

    def __call__(self, table: pa.Table) -> pa.Table:
        """Columns image_id, uri and problem to `READ_SCHEMA`."""
        statuses = pa.array(["ok"] * len(table), pa.string())
        return super().__call__(table.append_column("status", statuses))

    def in_pieces(self, table: pa.Table) -> Iterator[pa.Table]:
        """The same in tables of about `READ_BYTES`, so that memory depends on bytes and not on images.

        One image is read first, and the last piece tells how many to read next: at most twice as many, as
        small or bad images say nothing about those that follow.
        """
        start, rows = 0, 1
        waiting: list[pa.Table] = []
        while start < len(table):
            piece = self(table.slice(start, rows))
            waiting.append(piece)
            start += rows
            rows = max(1, min(2 * rows, READ_BYTES * len(piece) // max(1, piece.nbytes)))
            if start >= len(table) or sum(part.nbytes for part in waiting) >= READ_BYTES:
                yield pa.concat_tables(waiting)
                # Before the next one is decoded, which takes most of the memory.
                waiting.clear()
                del piece

    def process(self, rows: list[Row]) -> list[Row]:
        """Read and decode."""
        return [read_row(row, self._options, self._embed_images) for row in rows]


def pending_table(refs: Sequence[ImageRef]) -> pa.Table:
    """Images as the table that `ReadImages` takes."""
    rows = [{"image_id": r.image_id, "uri": r.uri, "problem": r.problem} for r in refs]
    return pa.Table.from_pylist(rows, _PENDING)


def read_row(row: Row, options: ImageOptions, embed_images: bool) -> Row:
    """One image read and decoded, or its reason."""
    common: Row = {"image_id": row["image_id"], "uri": row["uri"], "status": "ok", "error": None}
    if row.get("problem"):
        return {**common, "status": "skipped", "error": row["problem"]}
    try:
        data = read_allowed(row["uri"], options.roots, follow=options.follow_links)
        common["sha256"] = hashlib.sha256(data).hexdigest()
        image = decode_image(data, options)
    except ImageProblem as problem:
        return {**common, "status": problem.status, "error": problem.reason}
    return {
        **common,
        "width": image.width,
        "height": image.height,
        "pixels": raw(image.pixels),
        "reduced": image.reduced,
        "file": data if embed_images else None,
    }
