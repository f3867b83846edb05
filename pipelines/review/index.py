"""What the page filters and sorts by: the figures of each image and segment of a label set, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.models.label_space import WIDE_IGNORE_INDEX
from segray.models.masks import Box
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.schema import STATUSES
from segray.pipelines.label_set.store import LabelStore

_FAR = 1 << 24
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Halves = NDArray[np.float16]

_IMAGE_COLUMNS = ["image_id", "status", "error", "width", "height", "class_ids", "class_pixels"]
_IMAGE_COLUMNS += ["mean_confidence", "n_segments"]
_SEGMENT_COLUMNS = [
    "image_id",
    "segment_id",
    "area",
    "class_id",
    "score",
    "margin",
    "runner_up_class",
    "bbox",
]


@dataclass(frozen=True)
class Images:
    """N images, sorted by id. An image's place in these arrays is its number.

    Attributes:
        ids: their image_ids.
        errors: why an image has no label; "" where it has one.
        part: int32 [N], which part of the label set has the row.
        row: int32 [N], the place of the row in its part.
        width: int32 [N], pixels.
        height: int32 [N], pixels.
        status: int32 [N], the place in `STATUSES`.
        confidence: float32 [N], the mean; nan without a label.
        margin: float32 [N], mean over the segments, weighted by their area; nan without segments.
        count: int32 [N], segments.
        class_start: int32 [N + 1], where an image's classes are in the next two.
        class_ids: int32, classes with pixels.
        class_pixels: float32, their share of the image.
    """

    ids: list[str]
    errors: list[str]
    part: Ints
    row: Ints
    width: Ints
    height: Ints
    status: Ints
    confidence: Floats
    margin: Floats
    count: Ints
    class_start: Ints
    class_ids: Ints
    class_pixels: Floats

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """bool [N], has a label."""
        return self.status == STATUSES.index("ok")

    @property
    def certainty(self) -> Floats:
        """float32 [N], the margin; the confidence where there are no segments."""
        certainty: Floats = np.where(np.isnan(self.margin), self.confidence, self.margin)
        return certainty

    def classes(self, image: int) -> dict[int, float]:
        """Share of the pixels of each class of an image."""
        piece = slice(self.class_start[image], self.class_start[image + 1])
        return dict(zip(self.class_ids[piece].tolist(), self.class_pixels[piece].tolist(), strict=True))

    def share_of(self, class_id: int) -> Floats:
        """float32 [N], the share of each image's pixels that a class has."""
        image = np.repeat(np.arange(len(self)), np.diff(self.class_start))
        mine = self.class_ids == class_id
        shares: Floats = np.bincount(image[mine], self.class_pixels[mine], len(self)).astype(np.float32)
        return shares


@dataclass(frozen=True)
class Segments:
    """S segments, by image and segment_id. A segment's place in these arrays is its row.

    Attributes:
        start: int64 [N + 1], where each image's segments are.
        number: int32 [S], segment_id.
        class_id: int32 [S].
        runner_up: int32 [S], the second best class; -1 without one.
        score: float32 [S], cosine with the best class.
        margin: float32 [S], score less the runner-up's cosine.
        area: int32 [S], pixels.
        box: int32 [S, 4], x, y, w, h in pixels.
        embedding: float16 [S, D]; D is 0 where the label set stores none.
    """

    start: NDArray[np.int64]
    number: Ints
    class_id: Ints
    runner_up: Ints
    score: Floats
    margin: Floats
    area: Ints
    box: Ints
    embedding: Halves

    def __len__(self) -> int:
        return len(self.number)

    def of(self, image: int) -> slice:
        """The rows of an image's segments."""
        return slice(int(self.start[image]), int(self.start[image + 1]))

    def image_of(self, row: int) -> int:
        """The number of the image that a segment is in."""
        return int(np.searchsorted(self.start, row, "right")) - 1

    def bounds(self, row: int) -> Box:
        """A segment's box: x, y, w, h in pixels."""
        x, y, w, h = self.box[row].tolist()
        return x, y, w, h


@dataclass(frozen=True)
class Index:
    """The index of a label set.

    Attributes:
        parts: names of its parts.
        images: its images.
        segments: their segments.
        number: an image's number by its id.
    """

    parts: list[str]
    images: Images
    segments: Segments
    number: dict[str, int] = field(repr=False)


@dataclass
class _Part:
    """What was read of one part."""

    labels: list[dict[str, Any]]
    segments: pa.Table
    image: NDArray[np.int64]
    """int64 [S], the row in `labels` of each segment."""


def build_index(store: LabelStore, report: Callable[[int, int], None] | None = None) -> Index:
    """Read a label set once, but for its maps and masks.

    Args:
        store: the label set.
        report: called with the parts that are read, and how many there are.

    Raises:
        UserError: no label set, a part that is damaged, or an image that is there twice.
    """
    names = store.parts()
    parts: list[_Part] = []
    embeddings = _Embeddings()
    for number, name in enumerate(names):
        parts.append(_read(store, name, embeddings))
        if report:
            report(number + 1, len(names))
    ids = [row["image_id"] for part in parts for row in part.labels]
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
    if len(set(ids)) != len(ids):
        where = storage.display(store.root)
        raise UserError(f"{where}: an image is listed twice; see segray verify out={where}")
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    segments = _segments(parts, place, embeddings, len(store.provenance["classes"]) if names else 0)
    images = _images(parts, order, segments)
    return Index(names, images, segments, {image_id: i for i, image_id in enumerate(images.ids)})


class _Embeddings:
    """Collects embeddings in a file without a name: the system keeps in memory what is used of it."""

    def __init__(self) -> None:
        self._file = TemporaryFile(prefix="segray-")  # noqa: SIM115  mapped for as long as the page is open
        self._width = self._rows = 0

    def add(self, column: pa.ChunkedArray) -> None:
        """Append an embedding of each segment."""
        self._rows += len(column)
        if pa.types.is_null(column.type):
            return
        width = column.type.list_size
        if self._width not in (0, width):
            raise UserError(f"embeddings of {width} numbers in one part, of {self._width} in another")
        self._width = width
        for chunk in column.chunks:
            values = np.asarray(chunk.fill_null([0.0] * self._width).flatten(), np.float16)
            self._file.write(np.nan_to_num(values, posinf=0, neginf=0).data)

    def array(self) -> Halves:
        """float16 [S, D]."""
        self._file.flush()
        if not self._width or not self._rows:
            return np.zeros((self._rows, 0), np.float16)
        return np.memmap(self._file, np.float16, "r", shape=(self._rows, self._width))


def _read(store: LabelStore, name: str, embeddings: _Embeddings) -> _Part:
    labels = list(store.rows(_IMAGE_COLUMNS, [name]))
    segments = store.segments(name, [*_SEGMENT_COLUMNS, "embedding"])
    embeddings.add(segments["embedding"])
    row = {image_id: i for i, image_id in enumerate(row["image_id"] for row in labels)}
    image = np.array([row.get(i, -1) for i in segments["image_id"].to_pylist()], np.int64)
    if (image < 0).any():
        raise UserError(f"{name} of {storage.display(store.root)} has segments of an image that has no row")
    return _Part(labels, segments.drop_columns(["embedding"]), image)


def _segments(
    parts: list[_Part], place: NDArray[np.int64], embeddings: _Embeddings, n_classes: int
) -> Segments:
    offsets = np.cumsum([0, *(len(part.labels) for part in parts)])
    owners = [place[part.image + offset] for part, offset in zip(parts, offsets, strict=False)]
    owner = np.concatenate([np.zeros(0, np.int64), *owners])
    table = pa.concat_tables(part.segments for part in parts)
    number = _ints(table["segment_id"])
    order = np.lexsort((number, owner))
    vectors = embeddings.array()
    in_order = bool((order == np.arange(len(order))).all())
    return Segments(
        start=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(place)))]),
        number=number[order],
        class_id=_known(_ints(table["class_id"]), n_classes, 0)[order],
        runner_up=_known(_ints(table["runner_up_class"], -1), n_classes, -1)[order],
        score=_floats(table["score"])[order],
        margin=_floats(table["margin"])[order],
        area=_ints(table["area"])[order],
        box=_boxes(table["bbox"])[order],
        embedding=vectors if in_order else _reordered(vectors, order),
    )


def _known(ids: Ints, n_classes: int, other: int) -> Ints:
    """The ids, with another one where there is no such class: arrays have a place for each class."""
    return np.where((ids >= 0) & (ids < n_classes), ids, np.int32(other))


def _boxes(column: pa.ChunkedArray) -> Ints:
    """int32 [S, 4]; what is no box of an image is 0."""
    flat = column.combine_chunks().fill_null([0.0] * 4).flatten()
    boxes = np.nan_to_num(np.asarray(flat, np.float32), posinf=0, neginf=0).reshape(-1, 4)
    return np.where(np.abs(boxes) < _FAR, boxes, 0).astype(np.int32)


def _reordered(vectors: Halves, order: NDArray[np.int64]) -> Halves:
    """The rows in another order, in a file of their own."""
    sorted_ones = _Embeddings()
    for start in range(0, len(order), 1 << 16):
        piece = vectors[order[start : start + (1 << 16)]]
        sorted_ones.add(pa.chunked_array([_fixed(piece)]))
    return sorted_ones.array() if vectors.size else vectors


def _fixed(values: Halves) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), max(1, values.shape[1]))


def _images(parts: list[_Part], order: NDArray[np.int64], segments: Segments) -> Images:
    counts = [len(part.labels) for part in parts]
    unsorted = [row for part in parts for row in part.labels]
    rows = [unsorted[i] for i in order.tolist()]
    start, class_ids, shares = _class_columns(rows)
    return Images(
        ids=[row["image_id"] for row in rows],
        errors=["" if row["status"] == "ok" else row["error"] or "no reason given" for row in rows],
        part=np.repeat(np.arange(len(parts), dtype=np.int32), counts)[order],
        row=np.concatenate([np.zeros(0, np.int32), *(np.arange(n, dtype=np.int32) for n in counts)])[order],
        width=np.array([row["width"] or 0 for row in rows], np.int32),
        height=np.array([row["height"] or 0 for row in rows], np.int32),
        status=np.array([_status(row["status"]) for row in rows], np.int32),
        confidence=np.array([_number(row["mean_confidence"]) for row in rows], np.float32),
        margin=_mean_margin(segments, len(rows)),
        count=np.diff(segments.start).astype(np.int32),
        class_start=start,
        class_ids=class_ids,
        class_pixels=shares,
    )


def _class_columns(rows: list[dict[str, Any]]) -> tuple[Ints, Ints, Floats]:
    """Where each image's classes start, their ids, and their shares of its pixels."""
    found = list(map(_classes_of, rows))
    start = np.cumsum([0, *map(len, found)]).astype(np.int32)
    flat = [pair for pairs in found for pair in pairs]
    ids = np.array([class_id for class_id, _ in flat], np.int32)
    return start, ids, np.array([share for _, share in flat], np.float32)


def _classes_of(row: dict[str, Any]) -> list[tuple[int, float]]:
    ids, pixels = row["class_ids"], row["class_pixels"]
    size = (row["width"] or 0) * (row["height"] or 0)
    pairs = zip(ids or (), pixels or (), strict=False)
    return [(i, n / size) for i, n in pairs if n and size and i is not None and 0 <= i <= WIDE_IGNORE_INDEX]


def _mean_margin(segments: Segments, count: int) -> Floats:
    image = np.repeat(np.arange(count), np.diff(segments.start))
    weight = np.bincount(image, segments.area, count)
    total = np.bincount(image, segments.area * segments.margin.astype(float), count)
    means: Floats = np.where(weight > 0, total / np.maximum(weight, 1), np.nan).astype(np.float32)
    return means


def _status(name: str) -> int:
    return STATUSES.index(name) if name in STATUSES else STATUSES.index("error")


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _ints(column: pa.ChunkedArray, missing: int = 0) -> Ints:
    return np.asarray(column.fill_null(missing).to_numpy(), np.int32)


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.nan_to_num(np.asarray(column.fill_null(0.0).to_numpy(), np.float32))
