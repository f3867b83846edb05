"""From named segments to a label map; without torch, so that workers that only paint start fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.models.masks import Segment

LabelMap = NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentClasses:
    """What K segments are called.

    Attributes:
        class_id: int16 [K]; 0 where the score is not above the threshold, or where a background name won.
        score: float32 [K], the cosine with the best class.
        margin: float32 [K], the score less the cosine with the runner-up; with only one class, less the
            least possible cosine, -1.
        confidence: float32 [K], the best class's share of the softmax over the classes.
        runner_up_class: int16 [K], the second best class; -1 where there is only one.
        named: bool [K], the score is above the threshold. Only such segments are painted: it tells a segment
            that a background name won, which covers what lies under it, from one without a class.
    """

    class_id: NDArray[np.int16]
    score: NDArray[np.float32]
    margin: NDArray[np.float32]
    confidence: NDArray[np.float32]
    runner_up_class: NDArray[np.int16]
    named: NDArray[np.bool_]


def paint(
    segments: Sequence[Segment], naming: SegmentClasses, height: int, width: int
) -> tuple[LabelMap, NDArray[np.uint8]]:
    """Label map and confidence (value / 255), both uint8 [height, width], of named segments.

    Larger segments are painted first, of equal areas the lower score first: the smaller, then the surer, lies
    on top. Pixels without a named segment have label 0 and confidence 0.
    """
    label, confidence = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    levels = levels_of(naming.confidence)
    order = sorted(range(len(segments)), key=lambda k: (-segments[k].area, naming.score[k]))
    for k in order:
        if naming.named[k]:
            x, y, w, h = segments[k].box
            label[y : y + h, x : x + w][segments[k].mask] = naming.class_id[k]
            confidence[y : y + h, x : x + w][segments[k].mask] = levels[k]
    return label, confidence


def levels_of(confidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Confidences in 0..1 as they are stored, in 255ths."""
    return np.rint(confidence * 255).astype(np.uint8)
