"""What to correct next, in the background: requests never wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from segray.pipelines.corrections.suggestions import Candidates, next_segments
from segray.pipelines.review.background import Background
from segray.pipelines.review.corrected import Corrections
from segray.pipelines.review.index import Index
from segray.pipelines.review.marks import Marks
from segray.pipelines.review.neighbours import NeighbourSearch

_LENGTH = 50
"""Segments whose order is computed; corrections change what comes after them."""
_PAUSE_S = 2.0
"""Between two orders, which need the processor that requests need."""


class Queue:
    """The order of the segments to correct next; keeps `Marks.rank`.

    Args:
        index: of the label set.
        marks: its images.
        corrections: of the label set.
        search: gives the search for similar segments.

    Attributes:
        background: orders again.
    """

    def __init__(
        self, index: Index, marks: Marks, corrections: Corrections, search: Callable[[], NeighbourSearch]
    ) -> None:
        self._index, self._marks, self._corrections, self._search = index, marks, corrections, search
        self._rows: list[int] | None = None
        self._shown: dict[int, int] = {}
        """The rows that were given, and the class that each had."""
        self.background = Background(self.order, "segray-next", _PAUSE_S)
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether there is an order."""
        return self._rows is not None

    def next(self) -> int | None:
        """The row of the next segment, given again only after all others; None: none is left."""
        with self._lock:
            waiting = (row for row in self._rows or () if row not in self._shown)
            row = next((row for row in waiting if not self._corrections.is_settled(row)), None)
            if row is not None:
                self._shown[row] = int(self._corrections.segment_class[row])
        self.background.again()
        return row

    def order(self) -> None:
        """Order the segments that no hand has classed, and that nobody was shown."""
        settled = self._corrections.settled()
        with self._lock:
            if settled.sum() + sum(not settled[row] for row in self._shown) == len(settled):
                self._shown.clear()
            shown, recent = list(self._shown), list(self._shown.values())
        settled[shown] = True
        segments, search = self._index.segments, self._search()
        candidates = Candidates(
            segments.embedding,
            segments.margin,
            segments.area,
            self._corrections.segment_class,
            search.class_means,
        )
        rows = next_segments(candidates, settled, _LENGTH, recent).tolist()
        self._marks.rank[:] = np.nan
        for rank, image in enumerate(dict.fromkeys(map(segments.image_of, rows))):
            self._marks.rank[image] = rank
        with self._lock:
            self._rows = rows
