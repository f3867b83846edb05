"""The two tables of a label set: schemas, and how rows become tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.label_space import (
    MAX_CLASSES,
    WIDE_IGNORE_INDEX,
    LabelSpace,
    hidden_characters,
    ignore_index_of,
)

STATUSES = ("ok", "error", "skipped")
# A struct<bytes, path> column is what `datasets` stores for its Image feature.
IMAGE_COLUMNS = ("image", "label", "confidence")
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


_LABELLED = ("width", "height", "label", "confidence")
"""Columns that a labelled image has."""


def _list(kind: pa.DataType, size: int = -1) -> pa.DataType:
    """A list type that reads back from Parquet as it is: there its items are always called "element"."""
    return pa.list_(pa.field("element", kind), size)


_RLE = pa.struct([("size", _list(pa.int32(), 2)), ("counts", pa.binary())])
ID_LIST = _list(pa.int64())
# Batches stay far below the 2 GiB that one Arrow binary array can hold, with whole photographs embedded too.
_BATCH_ROWS = 32
_IDS = MAX_CLASSES + 1
_LEVELS = 256
_SECTIONS = ("sam", "clip", "config")
MAX_DIM = 1 << 16
"""Numbers of an embedding; CLIPs have 512 to 1,280."""
_COUNTED = 1 << 22

_LABEL_FIELDS = [
    ("image_id", pa.string()),
    ("image", _IMAGE),
    ("sha256", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("label", _IMAGE),
    ("confidence", _IMAGE),
    ("class_ids", ID_LIST),
    ("class_pixels", ID_LIST),
    ("mean_confidence", pa.float32()),
    ("labelled_fraction", pa.float32()),
    ("n_segments", pa.int32()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("run_id", pa.string()),
]

SEGMENT_FIELDS = [
    ("image_id", pa.string()),
    ("segment_id", pa.int32()),
    ("bbox", _list(pa.float32(), 4)),
    ("area", pa.int64()),
    ("class_id", pa.int16()),
    ("score", pa.float32()),
    ("margin", pa.float32()),
    ("runner_up_class", pa.int16()),
    ("predicted_iou", pa.float32()),
    ("stability_score", pa.float32()),
    ("rle", _RLE),
]


def labels_schema(provenance: Mapping[str, Any]) -> pa.Schema:
    """Schema of the labels table: one row per image, good or bad.

    Args:
        provenance: what made the labels, kept as JSON under the metadata key `segray`. Its key `classes`
            (names, index = class id) also names the ids for `datasets`, `ignore_index` defaults to 255.

    Raises:
        ValueError: `classes` is missing or empty.
    """
    classes = provenance.get("classes")
    if not classes:
        raise ValueError("provenance['classes'] must list the class names, index = class id")
    features = json.dumps({"info": {"features": _features(list(classes))}})
    return pa.schema(_LABEL_FIELDS, metadata={"huggingface": features, **_metadata(provenance)})


def segments_schema(dim: int | None, provenance: Mapping[str, object]) -> pa.Schema:
    """Schema of the segments table: one row per segment.

    Args:
        dim: length of the float16 embeddings; None stores none, as a column of nulls.
        provenance: as in `labels_schema`.
    """
    embedding = pa.null() if dim is None else _list(pa.float16(), dim)
    return pa.schema([*SEGMENT_FIELDS, ("embedding", embedding)], metadata=_metadata(provenance))


def other_columns(schema: pa.Schema, *, segments: bool) -> list[str]:
    """Columns of the labels or segments table that a file lacks, or has with another type."""
    wanted = SEGMENT_FIELDS if segments else _LABEL_FIELDS
    other = [name for name, kind in wanted if name not in schema.names or schema.field(name).type != kind]
    if segments and not _is_embedding(schema):
        other.append("embedding")
    return other


def _is_embedding(schema: pa.Schema) -> bool:
    kind = schema.field("embedding").type if "embedding" in schema.names else None
    if kind is None or pa.types.is_null(kind):
        return kind is not None
    # Where a value is null, a reader makes as many zeros as the type says.
    fixed = pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float16()
    return fixed and 1 <= kind.list_size <= MAX_DIM


def provenance_of(schema: pa.Schema) -> dict[str, Any]:
    """The provenance that a schema of this module carries.

    Raises:
        ValueError: it carries none.
    """
    text = (schema.metadata or {}).get(b"segray")
    if text is None:
        raise ValueError("no metadata key segray: not written by segray")
    try:
        provenance = json.loads(text)
    except RecursionError:
        raise ValueError("metadata that is nested too deeply") from None
    _check_provenance(provenance)
    return provenance


def _check_provenance(provenance: object) -> None:
    """Refuse what readers rely on in another form: the label set may be anyone's."""
    if not isinstance(provenance, dict):
        raise ValueError("metadata segray that is not a mapping")
    for name in _SECTIONS:
        if not isinstance(provenance.get(name) or {}, dict):
            raise ValueError(f"metadata segray whose {name} is not a mapping")
    classes, palette = provenance.get("classes"), provenance.get("palette") or []
    if not isinstance(classes, list) or not 1 <= len(classes) <= _IDS:
        raise ValueError(f"no list of classes (allowed: 1 to {_IDS})")
    if bad := next((n for n in classes if not isinstance(n, str) or hidden_characters(n)), None):
        raise ValueError(f"class {bad!r}: not a name without control characters")
    ignore = provenance.get("ignore_index", 255)
    highest = ignore_index_of(len(classes))
    if type(ignore) is not int or not 0 <= ignore <= highest or (highest == WIDE_IGNORE_INDEX != ignore):
        allowed = highest if highest == WIDE_IGNORE_INDEX else f"0 to {highest}"
        raise ValueError(f"ignore_index {ignore!r} (allowed: {allowed})")
    if not isinstance(palette, list) or len(palette) > _IDS or not all(map(_is_colour, palette)):
        raise ValueError(f"a palette of something else than at most {_IDS} colours")


def _is_colour(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(v) is int and 0 <= v < _LEVELS for v in value)
    )


def stored_palette(provenance: Mapping[str, Any]) -> NDArray[np.uint8]:
    """uint8 [256 or more, 3], the colours of a label set's ids; those of VOC where it names none."""
    palette = LabelSpace(tuple(provenance["classes"]), ()).palette()
    stored = np.asarray(provenance.get("palette") or (), np.uint8).reshape(-1, 3)
    palette[: len(stored)] = stored[: len(palette)]
    return palette


def labels_table(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    """Table of plain rows; missing keys become nulls, and an image column may be given as its bytes alone.

    Raises:
        ValueError: a row has an unknown key.
    """
    return _table([_with_image_structs(row) for row in rows], schema)


def segments_table(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    """Table of plain rows with `rle` as {"size": [H, W], "counts": bytes}; missing keys become nulls.

    Raises:
        ValueError: a row has an unknown key, or an embedding of another length.
    """
    return _table(rows, schema)


def class_counts(label: LabelMap, ignore_index: int = 255) -> tuple[list[int], list[int]]:
    """Ids in a label map, ascending, and their pixels: the columns class_ids and class_pixels.

    Pixels of the ignore index are not counted: it is not a class.
    """
    pixels = pixel_counts(label)
    ids = [int(i) for i in np.flatnonzero(pixels) if i != ignore_index]
    return ids, [int(pixels[i]) for i in ids]


def pixel_counts(label: LabelMap) -> NDArray[np.int64]:
    """Pixels of each id, int64 [256], or [65536] of 16-bit ids.

    bincount makes 8 bytes of a pixel, so they are counted in pieces.
    """
    flat, pixels = label.ravel(), np.zeros(np.iinfo(label.dtype).max + 1, np.int64)
    for start in range(0, flat.size, _COUNTED):
        pixels += np.bincount(flat[start : start + _COUNTED], minlength=pixels.size)
    return pixels


def class_pixels(label: LabelMap, n_classes: int) -> NDArray[np.int64]:
    """Pixels of each class, and of ignored pixels at the end: int64 [n_classes + 1]."""
    pixels = pixel_counts(label)
    return np.append(pixels[:n_classes], pixels[ignore_index_of(n_classes)])


def _metadata(provenance: Mapping[str, object]) -> dict[str, str]:
    return {"segray": json.dumps(provenance, sort_keys=True, ensure_ascii=False)}


def _features(classes: list[str]) -> dict[str, Any]:
    features = {name: _feature(kind) for name, kind in _LABEL_FIELDS}
    features["class_ids"]["feature"] = {"names": classes, "_type": "ClassLabel"}
    return features


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        # Every version of datasets reads Sequence (newer ones show it as List); before 4, List is an error.
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    return {"dtype": "float32" if kind == pa.float32() else str(kind), "_type": "Value"}


def _with_image_structs(row: Mapping[str, object]) -> dict[str, object]:
    files = {name: row[name] for name in IMAGE_COLUMNS if isinstance(row.get(name), bytes)}
    return {**row, **{name: {"bytes": data, "path": None} for name, data in files.items()}}


def _table(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise ValueError(f"unknown columns {sorted(unknown)}; allowed: {schema.names}")
    batches = (_batch(chunk, schema) for chunk in _chunks(rows))
    return pa.Table.from_batches(batches, schema=schema)


def _chunks(rows: Sequence[Mapping[str, object]]) -> Iterator[Sequence[Mapping[str, object]]]:
    for start in range(0, len(rows), _BATCH_ROWS):
        yield rows[start : start + _BATCH_ROWS]


def _batch(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [_column([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float16():
        return _embeddings(values, kind.list_size)
    return pa.array(values, type=kind)


def _embeddings(values: Iterable[Any], dim: int) -> pa.Array:
    vectors = [None if value is None else np.asarray(value, np.float16) for value in values]
    wrong = [v.shape for v in vectors if v is not None and v.shape != (dim,)]
    if wrong:
        raise ValueError(f"an embedding has shape {wrong[0]}, the schema says ({dim},)")
    zeros = np.zeros(dim, np.float16)
    flat = np.concatenate([zeros if v is None else v for v in vectors])
    missing = pa.array([v is None for v in vectors], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=_list(pa.float16(), dim), mask=missing)


def missing_values(table: pa.Table) -> list[str]:
    """Which columns of a labelled image an ok row has empty, of those that the table has."""
    names = [name for name in _LABELLED if name in table.column_names and table[name].null_count]
    if not names or "status" not in table.column_names:
        return []
    ok = pc.equal(table["status"], "ok")
    return [name for name in names if pc.any(pc.and_(ok, pc.is_null(table[name]))).as_py()]
