"""What to correct next: the segments that settle most doubt, different from each other, of all classes.

The page, `segray suggest` and benchmarks/review.py choose by this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_LEAST = np.float32(1e-9)
_AT_ONCE = 256
_POOL = 1024
"""Segments that are compared with each other; of more, a sample is drawn in proportion to their doubt."""
SHOWN = 0.25
"""The least share of a segment's pixels that smaller ones leave uncovered: others are not worth a click."""
_WINDOW = 10
"""Of so many choices in a row, no class has more than its equal share."""


@dataclass(frozen=True)
class Candidates:
    """S segments to choose from.

    Attributes:
        embedding: [S, D] of any length, or of length 0 where there is none.
        margin: float [S], cosine with the best class less that with the next.
        area: int [S], pixels.
        class_id: int [S], the class that each has now.
        class_means: float32 [C, D], of length 1: the mean embedding of each class.
    """

    embedding: NDArray[np.generic]
    margin: NDArray[np.generic]
    area: NDArray[np.generic]
    class_id: NDArray[np.int32]
    class_means: Floats


def next_segments(
    candidates: Candidates, settled: NDArray[np.bool_], n: int, recent: Sequence[int] = ()
) -> NDArray[np.int64]:
    """The rows of the next segments to correct, the first one first.

    One after the other: the largest product of the doubt that it settles and its distance to the nearest one
    that is chosen or settled. A segment settles its own doubt, and that of the segments that a spread would
    mark: those nearer to it than to the mean of their class. Doubt is the rank of a small margin times the
    area.

    Args:
        candidates: to choose from.
        settled: bool [S], segments that hands have classed.
        n: how many; fewer where fewer are left.
        recent: the classes that the choices before these had, the last one last.
    """
    pool = _Pool.of(candidates, settled, n)
    return pool.rows[_choose(pool, np.arange(len(pool.rows)), n, recent)]


def next_images(
    candidates: Candidates, image: NDArray[np.int64], settled: NDArray[np.bool_], n: int
) -> NDArray[np.int64]:
    """The images of the next segments, where all segments of an image are settled together.

    Args:
        candidates: as of `next_segments`.
        image: int64 [S], the number of the image of each.
        settled: as of `next_segments`.
        n: how many images; fewer where fewer have an open segment, or one in the sample that is compared.
    """
    pool = _Pool.of(candidates, settled, n)
    return image[pool.rows[_choose(pool, image[pool.rows], n, ())]]


@dataclass
class _Pool:
    """P open segments that are compared.

    Attributes:
        rows: int64 [P], of the candidates.
        vectors: float32 [P, D], of length 1.
        doubt: float32 [P], what each settles, at most 1.
        classes: int [P].
        distance: float32 [P], to the nearest that is settled.
    """

    rows: NDArray[np.int64]
    vectors: Floats
    doubt: Floats
    classes: NDArray[np.generic]
    distance: Floats

    @classmethod
    def of(cls, candidates: Candidates, settled: NDArray[np.bool_], n: int) -> _Pool:
        open_ = np.flatnonzero(~settled)
        doubt = ranked_doubt(candidates.margin[open_]) * np.maximum(candidates.area[open_], 1)
        drawn, weight = _drawn(doubt, max(_POOL, 2 * n))
        rows = open_[drawn]
        vectors, classes = unit(candidates.embedding[rows]), candidates.class_id[rows]
        likeness = likeness_to_class(vectors, classes, candidates.class_means)
        done = candidates.embedding[np.flatnonzero(settled)]
        return cls(
            rows, vectors, doubt_settled(vectors, likeness, weight), classes, _distances(vectors, done)
        )


def _drawn(doubt: NDArray[np.generic], most: int) -> tuple[NDArray[np.int64], Floats]:
    """(rows, weights) of all, or of an even sample in proportion to the doubt."""
    if len(doubt) <= most:
        return np.arange(len(doubt)), doubt.astype(np.float32)
    reached = np.cumsum(doubt, dtype=np.float64)
    points = (np.arange(most) + 0.5) / most * reached[-1]
    rows, counts = np.unique(np.searchsorted(reached, points), return_counts=True)
    return rows, counts.astype(np.float32)


def doubt_settled(vectors: Floats, likeness: Floats, doubt: Floats) -> Floats:
    """How much doubt a correction of each segment settles where it spreads, float32 [P], at most 1.

    Args:
        vectors: float32 [P, D], of length 1, or 0.
        likeness: float32 [P], the cosine of each with the mean of its class.
        doubt: float32 [P], of each alone.
    """
    settled = doubt.astype(np.float32)
    for start in range(0, len(vectors), _AT_ONCE):
        piece = slice(start, start + _AT_ONCE)
        spreads = (vectors[piece] @ vectors.T > likeness).astype(np.float32)
        settled[piece] = np.maximum(settled[piece], spreads @ doubt)
    return settled / max(float(settled.max(initial=0)), float(np.finfo(np.float32).tiny))


def _choose(pool: _Pool, group: NDArray[np.generic], n: int, recent: Sequence[int]) -> list[int]:
    """Places in the pool; a group, int [P], is chosen and left as a whole."""
    quota = -(-_WINDOW // max(1, len(np.unique(pool.classes))))
    free, distance = np.ones(len(pool.rows), bool), pool.distance
    counted, chosen = list(recent), list[int]()
    while len(chosen) < n and free.any():
        used = Counter(counted[1 - _WINDOW :])
        full = [class_id for class_id, count in used.items() if count >= quota]
        open_ = free & ~np.isin(pool.classes, full)
        allowed = open_ if open_.any() else free
        scale = distance[allowed].max()
        score = pool.doubt * (distance / scale if scale > 0 else 1.0)
        # Where only copies are left, the order is that of the doubt.
        best = int(np.where(allowed, score + _LEAST * pool.doubt, -1).argmax())
        chosen.append(best)
        counted.append(int(pool.classes[best]))
        taken = group == group[best]
        free &= ~taken
        distance = np.minimum(distance, _distances(pool.vectors, pool.vectors[taken]))
    return chosen


def _distances(vectors: Floats, done: NDArray[np.generic]) -> Floats:
    """Cosine distance to the nearest that is done, float32 [P]; 1 without any."""
    distance = np.ones(len(vectors), np.float32)
    for start in range(0, len(done), _AT_ONCE):
        nearest = (vectors @ unit(done[start : start + _AT_ONCE]).T).max(1, initial=0)
        distance = np.minimum(distance, (1 - nearest).clip(0))
    return distance


def likeness_to_class(vectors: Floats, class_id: NDArray[np.integer], class_means: Floats) -> Floats:
    """float32 [K], the cosine of each vector with the mean of its class; -1 for an id without segments.

    Args:
        vectors: float32 [K, D], of length 1.
        class_id: int [K].
        class_means: float32 [C, D], of length 1.
    """
    known = class_id < len(class_means)
    means = class_means[np.where(known, class_id, 0)]
    return np.where(known, np.einsum("ij,ij->i", vectors, means), np.float32(-1))


def ranked_doubt(certainty: NDArray[np.generic]) -> Floats:
    """Doubt from any measure of certainty: 1 for the least certain, and even steps down to almost 0."""
    order = np.argsort(np.argsort(np.nan_to_num(certainty, nan=-np.inf), kind="stable"))
    doubt: Floats = (1 - order / max(1, len(certainty))).astype(np.float32)
    return doubt


def unit(vectors: NDArray[np.generic]) -> Floats:
    """Rows of length 1, float32; rows of zeros stay."""
    wide = np.asarray(vectors, np.float32)  # first: squares of float16 lose what cosines need
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    rows: Floats = (wide / np.where(length > 0, length, 1)).astype(np.float32, copy=False)
    return rows
