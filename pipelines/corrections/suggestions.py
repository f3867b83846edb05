"""What to correct next: the least certain, different from each other, of all classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.pipelines.corrections.correction import effective
from segray.pipelines.corrections.store import CorrectedStore
from segray.pipelines.label_set.store import LabelStore

Floats = NDArray[np.float32]
_LEAST = np.float32(1e-9)
_AT_ONCE = 256
_COLUMNS = ["image_id", "area", "class_id", "margin", "embedding"]


@dataclass(frozen=True)
class Candidates:
    """N images or segments to choose from.

    Attributes:
        doubt: float32 [N], in [0, 1]: how uncertain each is.
        embeddings: float32 [N, D] of length 1, or of length 0 where there is none.
        classes: int64 [N], the class that each counts for.
    """

    doubt: Floats
    embeddings: Floats
    classes: NDArray[np.int64]


def suggestions(candidates: Candidates, n: int, done: Floats | None = None) -> NDArray[np.int64]:
    """The numbers of the next n candidates, the first to correct first.

    One after the other: the largest product of doubt and distance to the nearest one that is chosen or done.
    No class has more than its equal share of n, as long as others have candidates.

    Args:
        candidates: to choose from.
        n: how many; all where there are fewer.
        done: float32 [M, D], embeddings of what is corrected already.
    """
    count = min(n, len(candidates.doubt))
    quota = -(-n // max(1, len(np.unique(candidates.classes))))
    distance = _distances(candidates.embeddings, done)
    used = np.zeros(int(candidates.classes.max(initial=0)) + 1, np.int64)
    free = np.ones(len(candidates.doubt), bool)
    chosen: list[int] = []
    for _ in range(count):
        open_ = free & (used[candidates.classes] < quota)
        allowed = open_ if open_.any() else free
        scale = distance[allowed].max()
        score = candidates.doubt * (distance / scale if scale > 0 else 1.0)
        # Where only copies are left, the order is that of the doubt.
        best = int(np.where(allowed, score + _LEAST * candidates.doubt, -1).argmax())
        chosen.append(best)
        free[best] = False
        used[candidates.classes[best]] += 1
        near = 1 - candidates.embeddings @ candidates.embeddings[best]
        distance = np.minimum(distance, near.clip(0))
    return np.array(chosen, np.int64)


def _distances(embeddings: Floats, done: Floats | None) -> Floats:
    """Cosine distance to the nearest that is done, float32 [N]; 1 without any."""
    distance = np.ones(len(embeddings), np.float32)
    rows = embeddings[:0] if done is None else done
    for start in range(0, len(rows), _AT_ONCE):
        nearest = (embeddings @ rows[start : start + _AT_ONCE].T).max(1)
        distance = np.minimum(distance, (1 - nearest).clip(0))
    return distance


def ranked_doubt(certainty: NDArray[Any]) -> Floats:
    """Doubt from any measure of certainty: 1 for the least certain, and even steps down to almost 0."""
    order = np.argsort(np.argsort(np.nan_to_num(certainty, nan=-np.inf), kind="stable"))
    doubt: Floats = (1 - order / max(1, len(certainty))).astype(np.float32)
    return doubt


@dataclass(frozen=True)
class ImageCandidates:
    """Images to choose from.

    Attributes:
        ids: image_id of each.
        candidates: the same images.
        done: float32 [M, D], embeddings of the images with corrections.
    """

    ids: tuple[str, ...]
    candidates: Candidates
    done: Floats

    def next(self, n: int) -> list[str]:
        """The ids of the next n images."""
        return [self.ids[i] for i in suggestions(self.candidates, n, self.done)]


def image_candidates(store: CorrectedStore) -> ImageCandidates:
    """The labelled images of a label set without corrections.

    An image is as uncertain as the margins of its segments, weighed by their pixels, and counts for the class
    that adds most to that. Without segments its mean confidence counts.

    Args:
        store: the label set.

    Raises:
        UserError: a damaged part, or damaged corrections.
    """
    corrected = {image_id for image_id, group in store.corrections.items() if effective(group)}
    # What counts of corrected images, embeddings and areas, no correction changes.
    stored = LabelStore(store.root)
    ids: list[str] = []
    certainty, vectors, classes, done = [], [], [], []
    for part in stored.parts():
        segments = _segments(stored, part)
        for row in stored.rows(["image_id", "status", "mean_confidence"], [part]):
            if row["status"] != "ok":
                continue
            found = segments(row["image_id"])
            if row["image_id"] in corrected:
                done.append(found.vector)
                continue
            ids.append(row["image_id"])
            margin = found.margin if found.classes.size else float(row["mean_confidence"] or 0.0)
            certainty.append(margin)
            vectors.append(found.vector)
            classes.append(found.doubtful_class)
    dim = max((v.size for v in [*vectors, *done]), default=0)
    candidates = Candidates(
        ranked_doubt(np.array(certainty)), _stacked(vectors, dim), np.array(classes, np.int64)
    )
    return ImageCandidates(tuple(ids), candidates, _stacked(done, dim))


@dataclass(frozen=True)
class _ImageSegments:
    areas: NDArray[np.float64]
    margins: NDArray[np.float64]
    classes: NDArray[np.int64]
    embeddings: Floats

    @property
    def margin(self) -> float:
        """The mean over the pixels in segments."""
        return float(np.average(self.margins, weights=self.areas))

    @property
    def doubtful_class(self) -> int:
        if not self.classes.size:
            return 0
        doubt = self.areas * (self.margins.max() - self.margins + 1e-9)
        return int(np.bincount(self.classes, doubt).argmax())

    @property
    def vector(self) -> Floats:
        if not self.embeddings.size:
            return np.zeros(0, np.float32)
        return unit((self.embeddings * self.areas[:, None]).sum(0, keepdims=True))[0]


def unit(vectors: NDArray[Any]) -> Floats:
    """Rows of length 1, float32; rows of zeros stay."""
    wide = np.asarray(vectors, np.float32)  # first: squares of float16 lose what cosines need
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    rows: Floats = (wide / np.where(length > 0, length, 1)).astype(np.float32, copy=False)
    return rows


def _segments(store: LabelStore, part: str) -> Callable[[str], _ImageSegments]:
    """The segments of each image of a part."""
    table = store.segments(part, _COLUMNS)
    names = np.array(table["image_id"].to_pylist(), object)
    order = np.argsort(names.astype(str), kind="stable") if len(names) else np.zeros(0, np.int64)
    names = names[order].astype(str)
    areas, margins, classes = (
        table[name].to_numpy()[order].astype(kind)
        for name, kind in (("area", np.float64), ("margin", np.float64), ("class_id", np.int64))
    )
    margins = np.nan_to_num(margins)
    vectors = embedding_matrix(table["embedding"])[order]

    def of(image_id: str) -> _ImageSegments:
        first, last = (int(np.searchsorted(names, image_id, side)) for side in ("left", "right"))
        inside = slice(first, last)
        return _ImageSegments(
            np.maximum(areas[inside], 1), margins[inside], np.maximum(classes[inside], 0), vectors[inside]
        )

    return of


def embedding_matrix(column: pa.ChunkedArray) -> Floats:
    """Rows of a column of embeddings, of length 1, [N, D]; D is 0 where none are stored, null is zeros."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.zeros((len(column), 0), np.float32)
    stacked = np.zeros((len(column), kind.list_size), np.float32)
    start = 0
    for chunk in column.chunks:
        # Not flatten(), which leaves out the places of nulls.
        values = chunk.values.slice(chunk.offset * kind.list_size, len(chunk) * kind.list_size)
        rows = values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, kind.list_size)
        stacked[start : start + len(chunk)] = np.where(chunk.is_valid().to_numpy(False)[:, None], rows, 0)
        start += len(chunk)
    return unit(np.nan_to_num(stacked, posinf=0, neginf=0))


def _stacked(vectors: list[Floats], dim: int) -> Floats:
    """[N, D]; zeros for what has none."""
    stacked = np.zeros((len(vectors), dim), np.float32)
    for row, vector in zip(stacked, vectors, strict=True):
        row[: vector.size] = vector
    return stacked
