"""Check one part of a label set: both files whole, every row and segment consistent."""

from __future__ import annotations

import errno
import threading
from collections import Counter, defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import IGNORE_INDEX
from segray.models.messages import first_line
from segray.models.rle import area, checked_runs
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import decode_label_png
from segray.pipelines.label_set.part_files import damage
from segray.pipelines.label_set.part_reader import PartReader
from segray.pipelines.label_set.schema import (
    STATUSES,
    labels_schema,
    pixel_counts,
    provenance_of,
    segments_schema,
)
from segray.pipelines.label_set.store import LABELS, SEGMENTS

_LARGE_PIXELS = 1 << 24
_LARGE = threading.Lock()
"""Held while larger maps are checked: parts are checked at once, and their memory must not add up."""


@dataclass(frozen=True)
class Problem:
    """One fault of a label set.

    Attributes:
        part: name of the part that has it; "" when no part does (an image that is nowhere).
        image_id: the image that it is about; None for a whole file.
        what: one line.
    """

    part: str
    image_id: str | None
    what: str


@dataclass
class PartCheck:
    """What was found in one part.

    Attributes:
        part: its name.
        provenance: JSON text of what made it; None when unreadable.
        rows: (image_id, status) of each row that could be read.
        classes: the names of its ids.
        pixels: of each id in its labels, int64 [256 or 65536].
        ignore_index: the id of pixels without an answer.
        problems: everything wrong inside the part.
    """

    part: str
    provenance: bytes | None = None
    rows: list[tuple[str, str]] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    ignore_index: int = IGNORE_INDEX
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class _Classes:
    count: int
    ignore: int


def check_part(root: str, part: str) -> PartCheck:
    """Read both files of a part and check all that can be checked without the other parts.

    Raises:
        UserError: the disk or store refuses to read.
    """
    check = PartCheck(part)
    labels = _read(root, LABELS, part, check)
    segments = _read(root, SEGMENTS, part, check)
    if labels is None or not _check_schema(labels.schema_arrow, LABELS, check):
        return check
    if segments is not None and not _check_schema(segments.schema_arrow, SEGMENTS, check):
        segments = None
    check.provenance = labels.schema_arrow.metadata[b"segray"]
    provenance = provenance_of(labels.schema_arrow)
    check.classes = tuple(map(str, provenance["classes"]))
    check.ignore_index = int(provenance.get("ignore_index", IGNORE_INDEX))
    classes = _Classes(len(check.classes), check.ignore_index)
    check.pixels = np.zeros(np.iinfo(label_dtype(check.ignore_index)).max + 1, np.int64)
    try:
        _check_rows(labels, segments.read() if segments else None, classes, check)
    except (OSError, pa.ArrowException) as error:
        check.problems.append(Problem(part, None, f"unreadable: {first_line(error)}"))
    return check


def _read(root: str, folder: str, part: str, check: PartCheck) -> PartReader | None:
    """The open file, when it is whole; else None and a problem."""
    try:
        data = storage.read_bytes(storage.join(root, folder, part))
    except FileNotFoundError:
        check.problems.append(Problem(part, None, f"{folder} file is missing"))
        return None
    except OSError as error:
        # Only a bad sector is damage; work must not be thrown away because a store does not answer.
        if not storage.is_local(root) or error.errno != errno.EIO:
            where = storage.display(storage.join(root, folder, part))
            raise UserError(f"cannot read {where}: {error}", exit_code=1) from error
        check.problems.append(Problem(part, None, f"{folder} file: the disk cannot read it"))
        return None
    reason = damage(data)
    if reason is None:
        try:
            return PartReader(pa.BufferReader(data))
        except (OSError, pa.ArrowException) as error:
            reason = f"unreadable: {error}"
    check.problems.append(Problem(part, None, f"{folder} file: {reason}"))
    return None


def _check_schema(schema: pa.Schema, folder: str, check: PartCheck) -> bool:
    try:
        provenance = provenance_of(schema)
        if folder == LABELS:
            wanted = labels_schema(provenance)
        else:
            kind = schema.field("embedding").type
            wanted = segments_schema(None if pa.types.is_null(kind) else kind.list_size, provenance)
    except (ValueError, KeyError, AttributeError) as error:
        check.problems.append(Problem(check.part, None, f"{folder} file: not a label set's schema: {error}"))
        return False
    if not schema.equals(wanted):
        other = [name for name in wanted.names if name not in schema.names] or ["types differ"]
        check.problems.append(
            Problem(check.part, None, f"{folder} file: another schema ({', '.join(other)})")
        )
        return False
    return True


def _check_rows(labels: PartReader, segments: pa.Table | None, classes: _Classes, check: PartCheck) -> None:
    by_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    if segments is not None:
        columns = ["image_id", "segment_id", "area", "class_id", "rle"]
        for segment in segments.select(columns).to_pylist():
            by_image[segment["image_id"]].append(segment)
    for group in range(labels.num_row_groups):
        columns = [name for name in labels.schema_arrow.names if name != "image"]
        for row in labels.read_row_group(group, columns=columns).to_pylist():
            image_id = row["image_id"]
            check.rows.append((image_id, row["status"]))
            problems = list(_row_problems(row, classes, check.pixels))
            if segments is not None:
                problems += _segment_problems(row, by_image.pop(image_id, []), classes)
            check.problems += [Problem(check.part, image_id, what) for what in problems]
    for image_id in by_image:
        check.problems.append(Problem(check.part, image_id, "segments of an image that has no row"))


def _row_problems(row: dict[str, Any], classes: _Classes, pixels: NDArray[np.int64]) -> list[str]:
    """What is wrong with a row; the ids of its label are added to `pixels`."""
    status = row["status"]
    problems = [] if row["image_id"] else ["no image_id"]
    if status == "ok":
        contradiction = ["status ok with an error"] if row["error"] else []
        return problems + contradiction + _label_problems(row, classes, pixels)
    if status not in STATUSES:
        problems.append(f"status {status!r}; allowed: {', '.join(STATUSES)}")
    if not row["error"]:
        problems.append(f"status {status} without a reason")
    if row["label"] or row["confidence"]:
        problems.append(f"status {status} with a label")
    return problems


def _label_problems(row: dict[str, Any], classes: _Classes, total: NDArray[np.int64]) -> list[str]:
    problems: list[str] = []
    with _LARGE if (row["width"] or 0) * (row["height"] or 0) > _LARGE_PIXELS else nullcontext():
        _png(row, "confidence", problems, IGNORE_INDEX)
        label = _png(row, "label", problems, classes.ignore)
        counts = None if label is None else pixel_counts(label)
    if counts is None:
        return problems
    total += counts
    ids = [int(i) for i in np.flatnonzero(counts) if i != classes.ignore]
    if ids and ids[-1] >= classes.count:
        problems.append(f"label has id {ids[-1]}; allowed: 0 to {classes.count - 1} and {classes.ignore}")
    if (row["class_ids"], row["class_pixels"]) != (ids, counts[ids].tolist()):
        problems.append("class_ids and class_pixels differ from the label's counts")
    return problems


def _png(row: dict[str, Any], name: str, problems: list[str], ignore: int) -> LabelMap | None:
    """A row's PNG of the image's size; None and a line in `problems` where it is not that."""
    data = (row[name] or {}).get("bytes")
    if data is None:
        problems.append(f"{name} is missing")
        return None
    try:
        return decode_label_png(data, (row["height"], row["width"]), ignore)
    except ValueError as error:
        problems.append(f"{name}: {error}")
        return None


def _segment_problems(row: dict[str, Any], segments: list[dict[str, Any]], classes: _Classes) -> list[str]:
    problems = []
    if row["status"] != "ok":
        return [f"status {row['status']} with segments"] if segments or row["n_segments"] else []
    if len(segments) != row["n_segments"]:
        problems.append(f"n_segments is {row['n_segments']}, the segments table has {len(segments)}")
    twice = [i for i, n in Counter(s["segment_id"] for s in segments).items() if n > 1]
    problems += [f"segment {i} is listed twice" for i in twice]
    size = [row["height"], row["width"]]
    for segment in segments:
        what = _segment_problem(segment, size, classes)
        if what:
            problems.append(f"segment {segment['segment_id']}: {what}")
    return problems


def _segment_problem(segment: dict[str, Any], size: list[int], classes: _Classes) -> str | None:
    rle, class_id = segment["rle"], segment["class_id"]
    if rle is None or rle["size"] != size or rle["counts"] is None:
        return f"mask of size {rle and rle['size']}, the image is {size}"
    try:
        mask_area = area(checked_runs(rle["counts"], *size))
    except ValueError as error:
        return str(error)
    if mask_area != segment["area"]:
        return f"area is {segment['area']}, its mask has {mask_area}"
    if class_id is None or not 0 <= class_id < classes.count:
        return f"class_id {class_id}; allowed: 0 to {classes.count - 1}"
    return None
