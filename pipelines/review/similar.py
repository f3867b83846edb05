"""Spread a correction from Python: the segments that the page would offer after it."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike, fspath

import numpy as np

from segray.pipelines.corrections import Correction
from segray.pipelines.errors import UserError
from segray.pipelines.printing import visible
from segray.pipelines.review.review import Places, Review


@dataclass(frozen=True)
class SimilarSegment:
    """A segment that looks like a corrected one, and has another class.

    Attributes:
        image: its image_id.
        segment: its segment_id.
        class_name: the class that it has; None: unknown.
        distance: cosine distance to the corrected segment, 0 to 2.
        marked: it is nearer to the corrected segment than to the mean of its class; the page accepts these.
    """

    image: str
    segment: int
    class_name: str | None
    distance: float
    marked: bool


def similar_segments(
    labels: str | PathLike[str], correction: Correction, count: int = 60
) -> list[SimilarSegment]:
    """The segments of all images that look most like a corrected one, the nearest first.

    Args:
        labels: folder or URI of the label set.
        correction: one of kind `name` or `merge`; its first segment is compared.
        count: how many at most.

    Raises:
        UserError: not such a correction, no such segment, or a label set without embeddings.
    """
    review = Review(Places(fspath(labels)))
    review.catch_up()
    segments, images = review.index.segments, review.index.images
    new, row = _class_of(review, correction), _row_of(review, correction)
    alike = review.alike(row, new, count)
    return [
        SimilarSegment(
            images.ids[segments.image_of(other)],
            int(segments.number[other]),
            _name(review, int(review.corrections.segment_class[other])),
            float(distance),
            bool(marked),
        )
        for other, distance, marked in zip(alike.found.rows, alike.found.distances, alike.alike, strict=True)
    ]


def _class_of(review: Review, correction: Correction) -> int:
    if not correction.segments or correction.class_name not in review.classes:
        raise UserError(f"similar segments: a correction of kind {correction.kind!r} gives segments no class")
    return review.classes.index(correction.class_name)


def _row_of(review: Review, correction: Correction) -> int:
    image, number = review.index.number.get(correction.image), correction.segments[0]
    segments = review.index.segments
    rows = slice(0, 0) if image is None else segments.of(image)
    found = np.flatnonzero(segments.number[rows] == number)
    if not found.size:
        raise UserError(f"similar segments: {visible(correction.image)[:200]} has no segment {number}")
    return int(rows.start + found[0])


def _name(review: Review, class_id: int) -> str | None:
    return review.classes[class_id] if class_id < len(review.classes) else None
