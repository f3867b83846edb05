"""The corrections of a label set as the page sees them: kept up to date while others correct too."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.corrections import (
    CorrectedLabel,
    Correction,
    CorrectionLog,
    StoredLabel,
    apply_corrections,
)
from segray.pipelines.corrections.compaction import compact
from segray.pipelines.corrections.correction import effective
from segray.pipelines.errors import UserError
from segray.pipelines.printing import visible
from segray.pipelines.review.actions import Wanted
from segray.pipelines.review.index import Index
from segray.pipelines.review.marks import Marks
from segray.pipelines.review.scores import class_shares

_logger = logging.getLogger(__name__)
_COMPACT_EVERY = 64
_EVERY_S = 1.0
"""How often the log is listed for what others wrote."""


class Corrections:
    """Reads and appends corrections; several threads may use it.

    Args:
        root: the label set.
        index: of it.
        marks: what follows from corrections is kept there.
        who: the person at this page.
    """

    def __init__(self, root: str, index: Index, marks: Marks, who: str) -> None:
        self._log, self._index, self._marks, self.who = CorrectionLog(root), index, marks, who
        self._of: dict[int, list[Correction]] = {}
        self._listed = 0.0
        self._latest: dict[int, str] = {}
        """The last key that counts of each image with one."""
        self._settled = np.zeros(len(index.segments), np.bool_)
        self._uncompacted = _COMPACT_EVERY
        self._lock = threading.RLock()
        self.changed: Callable[[], None] | None = None
        """Called after `refresh` has read corrections that were not there before."""
        self.segment_class = index.segments.class_id.copy()
        """int32 [S], the classes of segments after corrections."""
        self._log.prepare()
        self.refresh(now=True)

    def refresh(self, *, now: bool = False) -> None:
        """Read what is new, at most once a second.

        Args:
            now: at any time.

        Raises:
            UserError: a part of the log is damaged.
        """
        with self._lock:
            due = now or time.monotonic() - self._listed > _EVERY_S
            if due and self._read() and self.changed:
                self.changed()

    def of(self, image: int) -> list[Correction]:
        """The corrections of an image, by key; also what was undone."""
        with self._lock:
            return self._of.get(image, [])

    def images(self) -> list[int]:
        """The images with corrections, also with those that were undone."""
        with self._lock:
            return list(self._of)

    def counted(self, image: int) -> list[Correction]:
        """The corrections of an image that are not undone, by key."""
        return effective(self.of(image))

    def version(self, image: int) -> str:
        """Another text after each correction of an image; "" before the first one."""
        return _version(self.of(image))

    def append(self, wanted: Sequence[Wanted]) -> list[Correction]:
        """Store corrections, all or none. `changed` is left to the caller.

        Raises:
            UserError: one that does not fit the label set, or the log cannot be written.
        """
        with self._lock:
            for one in wanted:
                self._check_target(one)
            made = [
                self._log.make(
                    self._index.images.ids[one.image],
                    one.kind,
                    segments=one.segments,
                    class_name=one.class_name,
                    mask=one.mask,
                    target=one.target,
                    who=self.who,
                )
                for one in wanted
            ]
            self._log.append(made)
            self._read()
        return made

    def compact(self) -> None:
        """Pack what many clicks left, now and then; see `compaction`."""
        with self._lock:
            self._uncompacted += 1
            if self._uncompacted <= _COMPACT_EVERY:
                return
            self._uncompacted = 0
            try:
                compact(self._log)
            except UserError as problem:  # the folder is read-only, or others tidy it too
                _logger.info("corrections are not packed: %s", problem)

    def apply(self, image: int, stored: StoredLabel) -> CorrectedLabel:
        """An image's label after its corrections.

        Raises:
            UserError: a correction does not fit the image.
        """
        try:
            return apply_corrections(stored, self.of(image))
        except ValueError as problem:
            raise UserError(f"corrections of {self._index.images.ids[image]}: {problem}") from problem

    def remember(self, image: int, corrected: CorrectedLabel, ignore_index: int) -> None:
        """Keep what the grid and the search for similar segments need of a corrected label."""
        segments = self._index.segments
        rows = segments.of(image)
        numbers = segments.number[rows].tolist()
        self.segment_class[rows] = [corrected.segments.get(number, 0) for number in numbers]
        self._marks.shares[image] = class_shares(corrected.label, ignore_index)
        self._settle(image)

    def settled(self) -> NDArray[np.bool_]:
        """bool [S], segments that hands have classed, and those of images that are good."""
        with self._lock:
            return self._settled.copy()

    def is_settled(self, row: int) -> bool:
        """Of one segment."""
        return bool(self._settled[row])

    def _check_target(self, one: Wanted) -> None:
        """Before the log makes a key that is later than the target's, and all of its next keys with it."""
        if one.target is not None and all(other.key != one.target for other in self.of(one.image)):
            where = visible(self._index.images.ids[one.image])
            raise UserError(f"{where} has no correction {visible(one.target)} to undo")

    def _read(self) -> bool:
        """Read the log; whether anything in it is new."""
        by_image, numbers, before = self._log.by_image(), self._index.number, self._of
        self._of = {numbers[name]: found for name, found in by_image.items() if name in numbers}
        self._listed = time.monotonic()
        images = self._of.keys() | before.keys()
        changed = [i for i in images if _version(self._of.get(i, [])) != _version(before.get(i, []))]
        if changed:
            self._mark(changed)
        return bool(changed)

    def _mark(self, changed: Sequence[int]) -> None:
        marks = self._marks
        for image in changed:
            found = self.counted(image)
            marks.corrected[image] = any(one.kind != "good" for one in found)
            marks.good[image] = any(one.kind == "good" for one in found)
            self._latest.pop(image, None)
            if found:
                self._latest[image] = found[-1].key
            self._settle(image)
        marks.when[:] = np.nan
        marks.when[sorted(self._latest, key=self._latest.__getitem__)] = np.arange(len(self._latest))

    def _settle(self, image: int) -> None:
        segments = self._index.segments
        rows = segments.of(image)
        hand = {number for one in self.counted(image) for number in one.segments}
        named = np.isin(segments.number[rows], list(hand))
        other = self.segment_class[rows] != segments.class_id[rows]
        self._settled[rows] = named | other | self._marks.good[image]


def _version(found: Sequence[Correction]) -> str:
    return f"{found[-1].key}-{len(found)}" if found else ""
