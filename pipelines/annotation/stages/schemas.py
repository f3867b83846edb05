"""What travels between the stages of annotation: the schema after each stage, and its arrays as bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.models.label_map import SegmentClasses
from segray.pipelines.engine.rows import Row
from segray.pipelines.label_set.schema import ID_LIST, SEGMENT_FIELDS

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
holds the file's bytes if images are embedded."""
SEGMENTED_SCHEMA = READ_SCHEMA.append(pa.field("packed_segments", pa.binary()))
"""After SAM: `packed_segments` as `models.masks.pack` writes them."""
CLASSIFIED_SCHEMA = pa.schema(
    [
        *_COMMON,
        ("packed_segments", pa.binary()),
        ("classes", pa.binary()),
        ("embeddings", pa.binary()),
        ("label", pa.binary()),
        ("confidence", pa.binary()),
    ]
)
"""After CLIP: the pixels are gone; `classes` is an array of `CLASSES_DTYPE`, `embeddings` float16 [K, D].

Without SAM, segments, classes and embeddings are null. There, and where pixels in no segment have a class of
their own, `label` (see `label_dtype`) and `confidence` (uint8) of every pixel are raw [H, W]."""
ENCODED_SCHEMA = pa.schema(
    [
        *_COMMON,
        ("label", pa.binary()),
        ("confidence", pa.binary()),
        ("class_ids", ID_LIST),
        ("class_pixels", ID_LIST),
        ("mean_confidence", pa.float32()),
        ("labelled_fraction", pa.float32()),
        ("segments", pa.list_(pa.struct([*SEGMENT_FIELDS[1:], ("embedding", pa.binary())]))),
    ]
)
"""Ready to be written: the columns of the label set, with an image's segments nested in its row."""

CLASSES_DTYPE = np.dtype(
    [
        ("class_id", np.int16),
        ("runner_up_class", np.int16),
        ("score", np.float32),
        ("margin", np.float32),
        ("confidence", np.float32),
        ("has_class", np.bool_),
    ]
)
"""The fields of `SegmentClasses`, one record per segment."""


def pixels_of(row: Row) -> NDArray[np.uint8]:
    """The decoded image of a row, uint8 RGB [H, W, 3], writable; smaller than the row's size if reduced."""
    return image_view(row).copy()


def image_view(row: Row) -> NDArray[np.uint8]:
    """A view of the row's pixels, not a copy. Never write to it: later stages read the same memory."""
    height, width = (-(-side // row["reduced"]) for side in (row["height"], row["width"]))
    assert row["pixels"] is not None
    return np.frombuffer(row["pixels"], np.uint8).reshape(height, width, 3)


def classes_to_bytes(classes: SegmentClasses) -> bytes:
    """A `SegmentClasses` as the bytes of a `CLASSES_DTYPE` array."""
    table = np.zeros(len(classes.class_id), CLASSES_DTYPE)
    for field in CLASSES_DTYPE.names or ():
        table[field] = getattr(classes, field)
    return table.tobytes()


def classes_from_bytes(data: bytes) -> SegmentClasses:
    """The inverse of `classes_to_bytes`."""
    table = np.frombuffer(data, CLASSES_DTYPE)
    return SegmentClasses(**{field: table[field] for field in CLASSES_DTYPE.names or ()})
