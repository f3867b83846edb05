"""The stages of annotation that need no model, read and encode, and what all stages share.

A stage takes rows and returns rows; `TableStage` makes it a map over Arrow tables for Ray Data. A row that is
not ok passes through untouched, so rows out are always images in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.models.label_map import SegmentClasses, paint
from segray.models.label_space import LabelSpace
from segray.models.masks import Segment, encode_rle, unpack
from segray.pipelines.engine.guard import Book, Row, guarded
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode_image, encode_gray_png
from segray.pipelines.io.sources import read_image
from segray.pipelines.label_set.schema import ID_LIST, SEGMENT_FIELDS, class_counts

READ_BYTES = 64 * 2**20
"""Decoded pixels that a read task holds at a time: three photographs of 7 megapixels."""

_COMMON = [
    ("image_id", pa.string()),
    ("uri", pa.string()),
    ("file", pa.binary()),
    ("sha256", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("status", pa.string()),
    ("error", pa.string()),
]
READ_SCHEMA = pa.schema([*_COMMON, ("pixels", pa.binary()), ("reduced", pa.int8())])
"""After reading: `pixels` is the raw uint8 [H, W, 3], both sides divided by `reduced` and rounded up; `file`
the file's bytes where images are embedded."""
SEGMENTED_SCHEMA = READ_SCHEMA.append(pa.field("segments", pa.binary()))
"""After SAM: `segments` as `models.masks.pack` writes them."""
CLASSIFIED_SCHEMA = pa.schema(
    [
        *_COMMON,
        ("segments", pa.binary()),
        ("naming", pa.binary()),
        ("embeddings", pa.binary()),
        ("label", pa.binary()),
        ("confidence", pa.binary()),
    ]
)
"""After CLIP: the pixels have gone; `naming` is a record array, `embeddings` float16 [K, D].

Without SAM there are neither segments nor what belongs to them, but the raw maps `label` and `confidence`."""

CLASSES_DTYPE = np.dtype(
    [
        ("class_id", np.int16),
        ("runner_up_class", np.int16),
        ("score", np.float32),
        ("margin", np.float32),
        ("confidence", np.float32),
        ("named", np.bool_),
    ]
)
_ROW_SEGMENT = pa.struct([*SEGMENT_FIELDS[1:], ("embedding", pa.binary())])
ENCODED_SCHEMA = pa.schema(
    [
        *_COMMON,
        ("label", pa.binary()),
        ("confidence", pa.binary()),
        ("class_ids", ID_LIST),
        ("class_pixels", ID_LIST),
        ("mean_confidence", pa.float32()),
        ("labelled_fraction", pa.float32()),
        ("segments", pa.list_(_ROW_SEGMENT)),
    ]
)
"""Ready to be written: the label set's columns, its segments nested in the image's row."""


class TableStage:
    """A stage as Ray Data calls it: Arrow table in, Arrow table out, guarded by the ledger."""

    def __init__(
        self, name: str, stage: Callable[[list[Row]], list[Row]], book: Book, max_tries: int
    ) -> None:
        self.name, self.stage, self.book, self.max_tries = name, stage, book, max_tries

    def apply(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        """Run the stage on the rows that are ok."""
        rows = guarded(self.name, table.to_pylist(), self.stage, self.book, self.max_tries)
        return pa.Table.from_pylist([{k: row.get(k) for k in schema.names} for row in rows], schema=schema)


def read_table(
    table: pa.Table, options: ImageOptions, embed_images: bool, book: Book, max_tries: int
) -> pa.Table:
    """Manifest rows (image_id, uri, problem) to decoded ones; what cannot be read gets its reason."""

    def work(rows: list[Row]) -> list[Row]:
        return [read_row(row, options, embed_images) for row in rows]

    rows = [{**row, "status": "ok"} for row in table.to_pylist()]
    start = pa.Table.from_pylist(rows)
    return TableStage("read", work, book, max_tries).apply(start, READ_SCHEMA)


def read_tables(
    table: pa.Table, options: ImageOptions, embed_images: bool, book: Book, max_tries: int
) -> Iterator[pa.Table]:
    """`read_table` in pieces of about `READ_BYTES`, so that memory depends on bytes and not on images.

    One image is read first, and how many come next is learnt from the last ones: at most twice as many, as
    small or bad ones tell nothing of those that follow.
    """
    start, rows = 0, 1
    waiting: list[pa.Table] = []
    while start < len(table):
        piece = read_table(table.slice(start, rows), options, embed_images, book, max_tries)
        waiting.append(piece)
        start += rows
        rows = max(1, min(2 * rows, READ_BYTES * len(piece) // max(1, piece.nbytes)))
        if start >= len(table) or sum(part.nbytes for part in waiting) >= READ_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []


def read_row(row: Row, options: ImageOptions, embed_images: bool) -> Row:
    """One image read and decoded, or its reason."""
    common: Row = {"image_id": row["image_id"], "uri": row["uri"], "error": None}
    if row.get("problem"):
        return {**common, "status": "skipped", "error": row["problem"]}
    try:
        data = read_image(row["uri"])
        common["sha256"] = hashlib.sha256(data).hexdigest()
        picture = decode_image(data, options)
    except ImageProblem as problem:
        return {**common, "status": problem.status, "error": problem.reason}
    return {
        **common,
        "status": "ok",
        "width": picture.width,
        "height": picture.height,
        "pixels": picture.pixels.tobytes(),
        "reduced": picture.reduced,
        "file": data if embed_images else None,
    }


def pixels_of(row: Row) -> NDArray[np.uint8]:
    """The decoded image of a row, uint8 RGB, writable; smaller than the row says where it was reduced."""
    height, width = (-(-row[side] // row["reduced"]) for side in ("height", "width"))
    return np.frombuffer(row["pixels"], np.uint8).reshape(height, width, 3).copy()


def classes_to_bytes(naming: SegmentClasses) -> bytes:
    """A `SegmentClasses` as the bytes of a CLASSES_DTYPE array."""
    table = np.zeros(len(naming.class_id), CLASSES_DTYPE)
    for field in CLASSES_DTYPE.names or ():
        table[field] = getattr(naming, field)
    return table.tobytes()


def classes_from_bytes(data: bytes) -> SegmentClasses:
    """The inverse of `classes_to_bytes`."""
    table = np.frombuffer(data, CLASSES_DTYPE)
    return SegmentClasses(**{field: table[field] for field in CLASSES_DTYPE.names or ()})


def encode_table(table: pa.Table, space: LabelSpace, book: Book, max_tries: int) -> pa.Table:
    """CLASSIFIED_SCHEMA to ENCODED_SCHEMA: paint, PNG, RLE."""

    def work(rows: list[Row]) -> list[Row]:
        return [encode_row(row, space) for row in rows]

    return TableStage("encode", work, book, max_tries).apply(table, ENCODED_SCHEMA)


def encode_row(row: Row, space: LabelSpace) -> Row:
    """One named image's columns of the label set."""
    if row["segments"] is None:
        shape = (row["height"], row["width"])
        label, confidence = (np.frombuffer(row[k], np.uint8).reshape(shape) for k in ("label", "confidence"))
        return {**row, **_encoded(label, confidence, confidence > 0, space.ignore_index), "segments": []}
    segments, naming = unpack(row["segments"]), classes_from_bytes(row["naming"])
    found = encode_segments(
        segments, naming, row["embeddings"], row["height"], row["width"], space.ignore_index
    )
    return {**row, **found}


def encode_segments(
    segments: list[Segment],
    naming: SegmentClasses,
    embeddings: bytes | None,
    height: int,
    width: int,
    ignore_index: int,
) -> Row:
    """Named segments as label map and confidence (PNG), their counts, and the segments as rows."""
    label, confidence = paint(segments, naming, height, width)
    named = covered(segments, naming, height, width)
    rows = segment_rows(segments, naming, embeddings, height, width)
    return {**_encoded(label, confidence, named, ignore_index), "segments": rows}


def _encoded(
    label: NDArray[np.uint8], confidence: NDArray[np.uint8], named: NDArray[np.bool_], ignore_index: int
) -> Row:
    painted = confidence[named]
    ids, pixels = class_counts(label, ignore_index)
    return {
        "label": encode_gray_png(label),
        "confidence": encode_gray_png(confidence),
        "class_ids": ids,
        "class_pixels": pixels,
        "mean_confidence": float(painted.mean()) / 255 if painted.size else 0.0,
        "labelled_fraction": painted.size / label.size,
    }


def covered(segments: list[Segment], naming: SegmentClasses, height: int, width: int) -> NDArray[np.bool_]:
    """bool [H, W]: pixels under at least one segment that got a name."""
    mask = np.zeros((height, width), bool)
    for segment, named in zip(segments, naming.named, strict=True):
        if named:
            x, y, w, h = segment.box
            mask[y : y + h, x : x + w] |= segment.mask
    return mask


def segment_rows(
    segments: list[Segment], naming: SegmentClasses, embeddings: bytes | None, height: int, width: int
) -> list[Row]:
    """The segments table's rows of one image, without its image_id; embeddings as float16 bytes."""
    size = len(embeddings) // len(segments) if embeddings and segments else 0
    rows = []
    for k, segment in enumerate(segments):
        rle_size, counts = encode_rle(segment, height, width)
        rows.append(
            {
                "segment_id": k,
                "bbox": [float(v) for v in segment.box],
                "area": segment.area,
                "class_id": int(naming.class_id[k]),
                "score": float(naming.score[k]),
                "margin": float(naming.margin[k]),
                "runner_up_class": int(naming.runner_up_class[k]),
                "predicted_iou": segment.predicted_iou,
                "stability_score": segment.stability_score,
                "rle": {"size": rle_size, "counts": counts},
                "embedding": embeddings[k * size : (k + 1) * size] if embeddings and size else None,
            }
        )
    return rows
