"""Which images to correct next, in the background: requests never wait for it."""

from __future__ import annotations

import threading
import time

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.corrections.suggestions import Candidates, ranked_doubt, suggestions, unit
from segray.pipelines.review.index import Floats, Index
from segray.pipelines.review.marks import Marks
from segray.pipelines.review.neighbours import principal_axes

_LENGTH = 50
"""Images whose order is computed; corrections change what comes after them."""
_PAUSE_S = 2.0
"""Between two orders, which need the processor that requests need."""
_AT_ONCE = 1 << 15


class Queue:
    """Keeps `Marks.rank`: least certain, most different from what is corrected, all classes.

    Args:
        index: of the label set.
        marks: its images.
    """

    def __init__(self, index: Index, marks: Marks) -> None:
        self._index, self._marks = index, marks
        self._changed = threading.Event()
        self._vectors = unit(image_vectors(index) @ principal_axes(index.segments.embedding))
        self._classes = doubtful_classes(index)

    def start(self) -> None:
        """Order images now and after each `again`; the thread ends with the process."""
        self.again()
        threading.Thread(target=self._follow, name="segray-next", daemon=True).start()

    def again(self) -> None:
        """Corrections have changed."""
        self._changed.set()

    def order(self) -> None:
        """Order the images that nobody has corrected or called good."""
        done = self._marks.corrected | self._marks.good
        open_ = np.flatnonzero(self._index.images.labelled & ~done)
        doubt = ranked_doubt(self._certainty()[open_])
        candidates = Candidates(doubt, self._vectors[open_], self._classes[open_])
        chosen = open_[suggestions(candidates, _LENGTH, self._vectors[done])]
        self._marks.rank[:] = np.nan
        self._marks.rank[chosen] = np.arange(len(chosen))

    def _certainty(self) -> Floats:
        images = self._index.images
        certainty: Floats = np.where(np.isnan(images.margin), images.confidence, images.margin)
        return certainty

    def _follow(self) -> None:
        while self._changed.wait():
            self._changed.clear()
            self.order()
            time.sleep(_PAUSE_S)


def image_vectors(index: Index) -> Floats:
    """float32 [N, D] of length 1: the mean embedding of each image's segments, weighted by their area."""
    segments = index.segments
    owner = np.repeat(np.arange(len(index.images)), np.diff(segments.start))
    total = np.zeros((len(index.images), segments.embedding.shape[1]), np.float32)
    for start in range(0, len(segments), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        weighted = unit(segments.embedding[rows]) * segments.area[rows, None].astype(np.float32)
        np.add.at(total, owner[rows], weighted)
    return unit(total)


def doubtful_classes(index: Index) -> NDArray[np.int64]:
    """int64 [N], the class that adds most to the doubt about an image; 0 without segments."""
    segments, count = index.segments, int(index.segments.class_id.max(initial=0)) + 1
    owner = np.repeat(np.arange(len(index.images)), np.diff(segments.start))
    highest = np.full(len(index.images), -np.inf)
    np.maximum.at(highest, owner, segments.margin)
    doubt = segments.area * (highest[owner] - segments.margin + 1e-9)
    cells = np.bincount(owner * count + segments.class_id, doubt, len(index.images) * count)
    return cells.reshape(-1, count).argmax(1)
