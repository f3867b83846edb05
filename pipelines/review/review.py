"""A label set that is open for review: everything that the page asks for."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap, SegmentClasses, covered_pixels, render_label_map
from segray.models.masks import decode_rle, segment_from_mask
from segray.pipelines.corrections import CorrectedLabel, StoredLabel
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageProblem, decode
from segray.pipelines.label_set.schema import stored_palette
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.label_set.stored_segments import decode_segments
from segray.pipelines.reporting.label_set.samples import Photos
from segray.pipelines.reporting.label_set.summary import read_uris
from segray.pipelines.review import drawing
from segray.pipelines.review.actions import Wanted
from segray.pipelines.review.background import Background
from segray.pipelines.review.cache import BoundedCache
from segray.pipelines.review.corrected import Corrections
from segray.pipelines.review.index import Index, build_index
from segray.pipelines.review.marks import Marks
from segray.pipelines.review.naming import Naming
from segray.pipelines.review.neighbours import NeighbourSearch
from segray.pipelines.review.queue import Queue
from segray.pipelines.review.rows import RowReader
from segray.pipelines.review.scores import (
    Reference,
    Scorer,
    TruthMasks,
    share_of_differences,
    share_of_errors,
)
from segray.pipelines.review.spread import Alike, find_alike

CACHE_BYTES = 128 << 20
"""Thumbnails that are kept."""


@dataclass(frozen=True)
class Places:
    """Where things are, and who is there.

    Attributes:
        root: the label set.
        roots: folders of the user where images may be, see `read_labelled`.
        weights: the user's `clip.weights`.
        who: the person at the page.
    """

    root: str
    roots: tuple[str, ...] = ()
    weights: str | None = None
    who: str = "unknown"


class Review:
    """A label set, its corrections and what it is compared with. Threads may use it at once.

    Args:
        places: the label set and what is the user's.
        truth: masks to compare with, by the names of the label set's classes.
        other: labels to compare with.
        report: as of `build_index`.

    Raises:
        UserError: no label set, or a damaged one; or as `TruthMasks` and its `check`.
    """

    def __init__(
        self,
        places: Places,
        truth: Callable[[tuple[str, ...]], TruthMasks] | None = None,
        other: Callable[[tuple[str, ...]], Reference] | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        self.places, self.store = places, LabelStore(places.root)
        self.provenance = self.store.provenance
        self.classes = tuple(str(name) for name in self.provenance["classes"])
        self.palette, self.ignore_index = stored_palette(self.provenance), self.store.ignore_index
        self.fingerprint = self.store.fingerprint()[:16]
        self.session = secrets.token_hex(4)
        self.truth = truth(self.classes) if truth else None
        self.other = other(self.classes) if other else None
        self.index: Index = build_index(self.store, report)
        if self.truth:
            self.truth.check(self.index.images.ids)
        self.marks = Marks.none(len(self.index.images))
        self.rows = RowReader(self.store, self.index)
        self.corrections = Corrections(places.root, self.index, self.marks, places.who)
        self.queue = Queue(self.index, self.marks, self.corrections, lambda: self.search, self.rows.segments)
        self.corrections.changed = self._follow_corrections
        self._background = Background(self._after_corrections, "segray-corrected")
        segments = self.index.segments
        self.naming = Naming(
            self.provenance, places.root, places.weights, segments.embedding, segments.class_id
        )
        self._recorded: dict[int, str] = {}
        """The version of each corrected image whose scores and shares are in the marks."""
        self._photos = Photos(places.root, read_uris(places.root, self.index.images.ids), places.roots)
        self._pictures: BoundedCache[bytes] = BoundedCache(CACHE_BYTES, len)
        self._search_lock = threading.Lock()
        self.scorer = Scorer(self.store, self.index, self._record_stored)

    def start(self) -> None:
        """Begin what goes on behind the page: the order of what is next, comparisons, old corrections."""
        threading.Thread(target=lambda: self.search, name="segray-similar", daemon=True).start()
        self.queue.background.start()
        self._background.start()
        if self.truth or self.other:
            self.scorer.start()

    def stop(self) -> None:
        """End that."""
        self.queue.background.stop()
        self._background.stop()
        self.scorer.stop()

    @cached_property
    def _search(self) -> NeighbourSearch:
        return NeighbourSearch(self.index.segments.embedding, self.index.segments.class_id)

    @property
    def search(self) -> NeighbourSearch:
        """The search for similar segments; made when it is first needed."""
        with self._search_lock:
            return self._search

    def photo(self, image: int, longest: int | None) -> bytes:
        """An image as a JPEG.

        Args:
            image: its number.
            longest: longest side in pixels; None: as it is.

        Raises:
            ImageProblem: why it cannot be had.
        """
        return self._pictures.get(("photo", image, longest), lambda: self._photo(image, longest))

    def overlay(self, image: int, names: str) -> bytes:
        """The thumbnail of an image's label.

        Raises:
            UserError: see `corrected`.
        """
        key = ("overlay", image, names, self.corrections.version(image))
        return self._pictures.get(key, lambda: self._overlay(image, names))

    def crop(self, row: int) -> bytes:
        """A picture of a segment.

        Raises:
            ImageProblem: why the image cannot be had.
            UserError: a damaged segment.
        """
        return self._pictures.get(("crop", row), lambda: self._crop(row))

    def corrected(self, image: int, names: str = "") -> CorrectedLabel:
        """An image's label after its corrections.

        Args:
            image: its number.
            names: a key of `Naming.add`; "": the names of the label set.

        Raises:
            UserError: the image has no label, or a damaged one.
        """
        self._require_label(image)
        version = self.corrections.version(image)
        corrected = self.corrections.apply(image, self._stored(image, names))
        if not names and version != self._recorded.get(image, ""):
            self._after_correction(image, corrected)
            self._recorded[image] = version
        return corrected

    def true_label(self, image: int) -> LabelMap | None:
        """An image's mask; None without one.

        Raises:
            UserError: a mask of another size, or no mask.
        """
        return self._reference(self.truth, image)

    def correct(self, wanted: Sequence[Wanted]) -> list[str]:
        """Store corrections; their keys.

        Raises:
            UserError: one that does not fit; nothing is stored.
        """
        for one in wanted:
            self._require_label(one.image)
        made = self.corrections.append(wanted)
        try:
            for image in {one.image for one in wanted}:
                self.corrected(image)
        finally:
            # Not before: it would work out the same labels, and take the interpreter from this request.
            self._follow_corrections()
        return [one.key for one in made]

    def alike(self, row: int, new_class: int, count: int) -> Alike:
        """The segments that look like one and have another class.

        Raises:
            UserError: the label set has no embeddings.
        """
        if not self.search.exists:
            raise UserError("the label set holds no embeddings (annotate with embeddings=true)")
        corrections = self.corrections
        return find_alike(
            self.search, corrections.segment_class, corrections.settled(), row, new_class, count
        )

    def _require_label(self, image: int) -> None:
        if not self.index.images.labelled[image]:
            raise UserError(f"no label: {self.index.images.errors[image]}")

    def _stored(self, image: int, names: str) -> StoredLabel:
        row = self.rows.maps(image)
        segments = self.rows.segments(image) if names or self.corrections.of(image) else []
        try:
            stored = StoredLabel.of_row(row, segments, self.classes, self.ignore_index)
            return self._renamed(image, names, stored) if names else stored
        except (ValueError, TypeError, KeyError) as problem:
            raise UserError(f"label of {row['image_id']}: {problem}; see segray verify") from problem

    def _renamed(self, image: int, names: str, stored: StoredLabel) -> StoredLabel:
        """The label as other names would have made it."""
        height, width = stored.label.shape
        classes = self.naming.classes(names, self.index.segments.of(image))
        segments = decode_segments(stored.segments, height, width)
        label, confidence = render_label_map(segments, classes, height, width, self.ignore_index)
        # Pixels in no segment may have a class of their own, from features that are not stored.
        outside = ~covered_pixels(segments, np.ones(len(segments), np.bool_), height, width)
        label[outside], confidence[outside] = stored.label[outside], stored.confidence[outside]
        rows = [
            {**row, "class_id": int(class_id)}
            for row, class_id in zip(stored.segments, _ids(classes), strict=True)
        ]
        return StoredLabel(label, confidence, rows, self.classes, self.ignore_index)

    def _photo(self, image: int, longest: int | None) -> bytes:
        row = self.rows.photo(image)
        return drawing.photo(self._photos.read(row), self._limits(image), longest)

    def _overlay(self, image: int, names: str) -> bytes:
        return drawing.overlay(self.corrected(image, names).label, self.palette, self.ignore_index)

    def _crop(self, row: int) -> bytes:
        segments = self.index.segments
        image = segments.image_of(row)
        pixels = decode(self._photos.read(self.rows.photo(image)), self._limits(image))
        number = int(segments.number[row])
        rle = next(one["rle"] for one in self.rows.segments(image) if one["segment_id"] == number)
        try:
            mask = decode_rle(pixels.shape[:2], rle["counts"])
            if not mask.any():
                raise ValueError("no pixel")
        except (ValueError, TypeError) as problem:  # nulls where values must be
            raise UserError(f"segment {number} of {self.index.images.ids[image]}: {problem}") from problem
        # Not the box that is stored: it may be anything.
        return drawing.segment_crop(pixels, mask, segment_from_mask(mask).box)

    def _limits(self, image: int) -> Any:
        images = self.index.images
        return drawing.accepted(int(images.height[image]), int(images.width[image]))

    def _reference(self, reference: Reference | None, image: int) -> LabelMap | None:
        images = self.index.images
        shape = int(images.height[image]), int(images.width[image])
        return reference.read(images.ids[image], shape) if reference else None

    def _after_correction(self, image: int, corrected: CorrectedLabel) -> None:
        self.corrections.remember(image, corrected, self.ignore_index)
        self._record_scores(image, corrected.label)

    def _record_stored(self, image: int, label: LabelMap) -> None:
        if self.corrections.of(image):
            self.corrected(image)  # records its scores
        else:
            self._record_scores(image, label)

    def _record_scores(self, image: int, label: LabelMap) -> None:
        truth, other = self._reference(self.truth, image), self._reference(self.other, image)
        if truth is not None:
            self.marks.errors[image] = share_of_errors(label, truth, self.ignore_index)
        if other is not None:
            self.marks.disagreement[image] = share_of_differences(label, other, self.ignore_index)

    def catch_up(self) -> None:
        """Bring the classes and scores of images up to date that anybody has corrected, or undone it."""
        for image in self.corrections.images():
            if self._recorded.get(image) == self.corrections.version(image):
                continue
            try:
                self.corrected(image)
            except (UserError, ImageProblem):  # told to whoever opens the image
                continue

    def _after_corrections(self) -> None:
        self.catch_up()
        self.corrections.compact()

    def _follow_corrections(self) -> None:
        self.queue.background.again()
        self._background.again()


def _ids(classes: SegmentClasses) -> NDArray[np.int64]:
    return np.where(classes.has_class, classes.class_id, 0).astype(np.int64)
