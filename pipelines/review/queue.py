"""What to correct next, in the background: requests never wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.corrections.suggestions import SHOWN, Candidates, next_segments
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.stored_segments import shown_pixels
from segray.pipelines.review.background import Background
from segray.pipelines.review.corrected import Corrections
from segray.pipelines.review.index import Index
from segray.pipelines.review.marks import Marks
from segray.pipelines.review.neighbours import NeighbourSearch

_LENGTH = 50
"""Segments whose order is computed; corrections change what comes after them."""
_ROUNDS = 8
_PAUSE_S = 2.0
"""Between two orders, which need the processor that requests need."""


class Queue:
    """The order of the segments to correct next; keeps `Marks.rank`.

    Args:
        index: of the label set.
        marks: its images.
        corrections: of the label set.
        search: gives the search for similar segments.
        segments_of: gives the stored segments of an image, by segment_id.

    Attributes:
        background: orders again.
    """

    def __init__(
        self,
        index: Index,
        marks: Marks,
        corrections: Corrections,
        search: Callable[[], NeighbourSearch],
        segments_of: Callable[[int], Sequence[Mapping[str, object]]],
    ) -> None:
        self._index, self._marks, self._corrections, self._search = index, marks, corrections, search
        self._segments_of = segments_of
        self._covered = np.zeros(len(index.segments), np.bool_)
        self._decoded: set[int] = set()
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
            left = ~(settled | self._covered)
            left[list(self._shown)] = False
            if not left.any():
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
        rows = self._shown_ones(candidates, settled, recent)
        self._marks.rank[:] = np.nan
        for rank, image in enumerate(dict.fromkeys(map(segments.image_of, rows))):
            self._marks.rank[image] = rank
        with self._lock:
            self._rows = rows

    def _shown_ones(
        self, candidates: Candidates, settled: NDArray[np.bool_], recent: Sequence[int]
    ) -> list[int]:
        """The next segments, without those that others cover; only masks that come up are decoded."""
        rows: list[int] = []
        for _ in range(_ROUNDS):
            rows = next_segments(candidates, settled | self._covered, _LENGTH, recent).tolist()
            new = {self._index.segments.image_of(row) for row in rows} - self._decoded
            if not new:
                break
            for image in new:
                self._decode(image)
        return [row for row in rows if not self._covered[row]]

    def _decode(self, image: int) -> None:
        images, segments = self._index.images, self._index.segments
        self._decoded.add(image)
        try:
            stored = self._segments_of(image)
            shown = shown_pixels(stored, int(images.height[image]), int(images.width[image]))
        except (UserError, ValueError, TypeError, KeyError):  # told to whoever opens the image
            return
        rows = segments.of(image)
        if len(shown) == rows.stop - rows.start:
            self._covered[rows] = shown < SHOWN * segments.area[rows]
