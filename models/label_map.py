"""Render classified segments as a label map; without torch, so that workers that only render start fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_space import IGNORE_INDEX
from segray.models.masks import Segment

LabelMap = NDArray[np.unsignedinteger[Any]]
"""Class ids, [H, W]: uint8, and uint16 where there are more than 254 classes."""

NO_RUNNER_UP = -1
"""Where there is no second class."""


@dataclass(frozen=True)
class SegmentClasses:
    """The classes of K segments.

    Attributes:
        class_id: int16 [K]; 0 where the score is not above the threshold, or where a background name won.
        score: float32 [K], the cosine with the best class, or what a labeller gives it, from 0 to 1.
        margin: float32 [K], the score less that of the runner-up; with only one class, less the least
            possible: -1 of cosines, 0 of a labeller.
        confidence: float32 [K], the best class's share of the softmax over the classes; a labeller's score.
        runner_up_class: int16 [K], the second best class; -1 where there is only one.
        has_class: bool [K], the score is above the threshold. Only such segments are rendered. A
            segment whose best name is a background name has a class, 0, and covers what lies under it.
        unknown: bool [K], the class is not trusted: the segment is rendered as the ignore index. None: no
            segment is.
    """

    class_id: NDArray[np.int16]
    score: NDArray[np.float32]
    margin: NDArray[np.float32]
    confidence: NDArray[np.float32]
    runner_up_class: NDArray[np.int16]
    has_class: NDArray[np.bool_]
    unknown: NDArray[np.bool_] | None = None

    def rendered(self, ignore_index: int) -> LabelMap:
        """[K] in the type of `label_dtype`, the value of each segment in a label map."""
        ids = self.class_id.astype(label_dtype(ignore_index))
        return ids if self.unknown is None else np.where(self.unknown, ids.dtype.type(ignore_index), ids)


def split(classes: SegmentClasses, counts: Sequence[int]) -> list[SegmentClasses]:
    """The classes of several images' segments, image by image."""
    cuts = np.cumsum(counts)[:-1]
    values = {field.name: getattr(classes, field.name) for field in fields(classes)}
    columns = {name: np.split(value, cuts) for name, value in values.items() if value is not None}
    parts = ({name: column[i] for name, column in columns.items()} for i in range(len(counts)))
    return [SegmentClasses(**part) for part in parts]


def render_label_map(
    segments: Sequence[Segment],
    classes: SegmentClasses,
    height: int,
    width: int,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[LabelMap, NDArray[np.uint8]]:
    """Label map and confidence (uint8, value / 255), both [height, width], of classified segments.

    Larger segments are drawn first; of equal areas, the lower score first. So the smaller segment, then the
    one with the higher score, lies on top. Pixels without a classified segment have label 0 and confidence 0,
    those of a segment whose class is not trusted the ignore index and confidence 0.

    Args:
        segments: K of them.
        classes: of the segments.
        height: of the image, in pixels.
        width: of the image, in pixels.
        ignore_index: of the label space, see `label_dtype`.
    """
    label: LabelMap = np.zeros((height, width), label_dtype(ignore_index))
    confidence = np.zeros((height, width), np.uint8)
    values = classes.rendered(ignore_index)
    levels = levels_of(classes.confidence)
    if classes.unknown is not None:
        levels = np.where(classes.unknown, np.uint8(0), levels)
    order = sorted(range(len(segments)), key=lambda k: (-segments[k].area, classes.score[k]))
    for k in order:
        if classes.has_class[k]:
            x, y, w, h = segments[k].box
            label[y : y + h, x : x + w][segments[k].mask] = values[k]
            confidence[y : y + h, x : x + w][segments[k].mask] = levels[k]
    return label, confidence


def covered_pixels(
    segments: Sequence[Segment], chosen: NDArray[np.bool_], height: int, width: int
) -> NDArray[np.bool_]:
    """bool [H, W]: pixels under at least one of the chosen segments, of [K]."""
    mask = np.zeros((height, width), bool)
    for segment, counts in zip(segments, chosen, strict=True):
        if counts:
            x, y, w, h = segment.box
            mask[y : y + h, x : x + w] |= segment.mask
    return mask


def label_dtype(ignore_index: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Of label maps whose ignored pixels have that id: uint8 or uint16."""
    return np.dtype(np.uint16 if ignore_index > IGNORE_INDEX else np.uint8)


def levels_of(confidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Confidences in 0..1 as they are stored, in 255ths."""
    levels = confidence * 255
    return np.rint(levels, out=levels).astype(np.uint8)
