"""Classes of segments from a score per class, as a labeller gives them; without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segray.models.annotators.protocols import Labeller
from segray.models.label_map import NO_RUNNER_UP, SegmentClasses
from segray.models.masks import Segment


class CheckedLabels:
    """A labeller whose scores fit its segments: without a row of their own they would be lost in tiles.

    Args:
        labeller: anybody's.
        n_classes: number of class ids.
    """

    def __init__(self, labeller: Labeller, n_classes: int) -> None:
        self._labeller, self._n_classes = labeller, n_classes

    def label(
        self, images: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[tuple[list[Segment], NDArray[np.float32]]]:
        """See `Labeller`.

        Raises:
            ValueError: scores of another shape than [K, C], or not those of each image.
        """
        found = self._labeller.label(images, sizes)
        if len(found) != len(images):
            raise ValueError(f"the labeller gives {len(found)} results for {len(images)} images")
        for segments, scores in found:
            if scores.shape != (len(segments), self._n_classes):
                wanted = f"{len(segments)} segments and {self._n_classes} classes"
                raise ValueError(f"the labeller gives scores of shape {scores.shape} for {wanted}")
        return found


def classify_scores(scores: NDArray[np.float32], ids: Sequence[int], threshold: float) -> SegmentClasses:
    """The best class of each segment; none where its score is not above the threshold.

    Classes of equal score go to the lower id. The confidence is the score itself.

    Args:
        scores: float32 [K, C] in 0..1, one column per class id.
        ids: of the columns that are classes, ascending, at least one.
        threshold: see above.
    """
    columns = np.asarray(ids)
    own = scores[:, columns]
    order = np.argsort(-own, axis=1, kind="stable")
    ordered = np.take_along_axis(own, order, 1)
    best, score = columns[order[:, 0]], ordered[:, 0]
    if len(columns) > 1:
        runner_up, second = columns[order[:, 1]], ordered[:, 1]
    else:
        runner_up, second = np.full_like(best, NO_RUNNER_UP), np.zeros_like(score)
    return _classes(best, score, score - second, runner_up, threshold)


def merge_classes(stored: SegmentClasses, new_ids: NDArray[np.int64], threshold: float) -> SegmentClasses:
    """The classes of segments after classes were merged, dropped or put into another order.

    Of the scores only the two best are stored. A segment whose class was dropped goes to its runner-up. Where
    that is merged into the same class or dropped too, there is no runner-up, and the margin stays as it was:
    no other class came closer.

    Args:
        stored: the classes of K segments, by the old ids.
        new_ids: int64 [C], the new id of each old one; -1: dropped.
        threshold: a segment whose score is not above it has no class.
    """
    known = np.append(new_ids, NO_RUNNER_UP)
    first, second = known[stored.class_id], known[stored.runner_up_class]
    dropped = stored.has_class & (first < 0)
    best = np.where(dropped, second, first)
    score = np.where(dropped, stored.score - stored.margin, stored.score)
    score = np.where(best < 0, 0, score).astype(np.float32)
    runner_up = np.where(dropped | (second == best), NO_RUNNER_UP, second)
    margin = np.where(dropped, score, stored.margin).astype(np.float32)
    return _classes(np.maximum(best, 0), score, margin, runner_up, threshold)


def _classes(
    best: NDArray[np.int64],
    score: NDArray[np.float32],
    margin: NDArray[np.float32],
    runner_up: NDArray[np.int64],
    threshold: float,
) -> SegmentClasses:
    has_class = score > np.float32(threshold)
    return SegmentClasses(
        class_id=np.where(has_class, best, 0).astype(np.int16),
        score=score,
        margin=margin,
        confidence=score,
        runner_up_class=runner_up.astype(np.int16),
        has_class=has_class,
    )
