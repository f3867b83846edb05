"""Find the segments that look most like one: exact cosine distances, in a set of any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.corrections.suggestions import likeness_to_class, unit
from segray.pipelines.review.index import Floats, Halves, Ints

_COARSE = 64
"""Dimensions of the first pass."""
_CANDIDATES = 2048
"""Segments of the first pass whose exact distance is computed."""
_SAMPLE = 20_000
_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Neighbours:
    """Segments, the nearest first.

    Attributes:
        rows: int64 [K], their places in the index.
        distances: float32 [K], cosine distances, 0 to 2.
    """

    rows: NDArray[np.int64]
    distances: Floats


class NeighbourSearch:
    """Nearest segments by cosine.

    Up to 64 dimensions all distances are exact. Above, the principal axes of a sample choose the candidates,
    and the exact distances of those decide.

    Args:
        embedding: float16 [S, D].
        class_id: int32 [S].

    Attributes:
        class_means: float32 [C, D], of length 1: the mean embedding of each class.
    """

    def __init__(self, embedding: Halves, class_id: Ints) -> None:
        self._embedding = embedding
        axes = principal_axes(embedding)
        self._coarse = np.zeros((len(embedding), axes.shape[1]), np.float32)
        means = np.zeros((int(class_id.max(initial=0)) + 1, embedding.shape[1]), np.float32)
        for start in range(0, len(embedding), _AT_ONCE):
            piece = slice(start, start + _AT_ONCE)
            vectors = unit(embedding[piece])
            self._coarse[piece] = unit(vectors @ axes)
            of_class = class_id[piece] == np.arange(len(means))[:, None]
            means += of_class.astype(np.float32) @ vectors
        self.class_means = unit(means)

    @property
    def exists(self) -> bool:
        """Whether the label set stores embeddings."""
        return self._embedding.size > 0

    def nearest(self, row: int, among: NDArray[np.bool_], count: int) -> Neighbours:
        """The nearest segments of one.

        Args:
            row: the segment.
            among: bool [S], the segments that may be found.
            count: how many at most.
        """
        similarity = self._coarse @ self._coarse[row]
        allowed = np.flatnonzero(among & (np.arange(len(among)) != row))
        keep = min(len(allowed), max(count, _CANDIDATES))
        if keep < len(allowed):
            allowed = allowed[np.argpartition(-similarity[allowed], keep - 1)[:keep]]
        exact = self.similarity(allowed, row)
        order = np.argsort(-exact, kind="stable")[:count]
        return Neighbours(allowed[order], 1 - exact[order])

    def similarity(self, rows: NDArray[np.int64], row: int) -> Floats:
        """float32 [K], cosines of segments with one."""
        values: Floats = unit(self._embedding[rows]) @ unit(self._embedding[row : row + 1])[0]
        return values

    def likeness_to_class(self, rows: NDArray[np.int64], class_id: Ints) -> Floats:
        """float32 [K], the cosine of each segment with the mean of a class; -1 for an id without segments.

        Args:
            rows: K segments.
            class_id: int32 [K].
        """
        return likeness_to_class(unit(self._embedding[rows]), class_id, self.class_means)


def principal_axes(embedding: Halves) -> Floats:
    """float32 [D, at most 64]: the axes along which embeddings differ most, of a sample of them."""
    size = embedding.shape[1]
    if size <= _COARSE:
        return np.eye(size, dtype=np.float32)
    step = max(1, len(embedding) // _SAMPLE)
    sample = unit(embedding[::step])
    # Not centred: cosines are what must be kept, and they are taken from the origin.
    _, axes = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(axes[:, -_COARSE:])
