"""A stored label and its corrections become the corrected label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.masks import BoolMask, Segment, decode_rle
from segray.pipelines.corrections.correction import Correction, effective
from segray.pipelines.io.label_png import decode_gray_png, decode_label_png
from segray.pipelines.label_set.stored_segments import decode_segments

SURE = 255
"""Confidence of a pixel that has its class by hand."""


@dataclass(frozen=True)
class StoredLabel:
    """The label of one image as the label set has it.

    Attributes:
        label: class ids [H, W].
        confidence: uint8 [H, W], in 255ths.
        segments: its rows of the segments table: segment_id, area, score, class_id, rle, predicted_iou and
            stability_score. Only what is done to segments reads them.
        classes: the name of each class id.
        ignore_index: the id of ignored pixels.
    """

    label: LabelMap
    confidence: NDArray[np.uint8]
    segments: Sequence[Mapping[str, Any]]
    classes: Sequence[str]
    ignore_index: int

    @classmethod
    def of_row(
        cls,
        row: Mapping[str, Any],
        segments: Sequence[Mapping[str, Any]],
        classes: Sequence[str],
        ignore_index: int,
    ) -> StoredLabel:
        """Of an ok row of the labels table, with width, height, label and confidence.

        Raises:
            ValueError: its PNGs are not those of such an image.
        """
        shape = (row["height"], row["width"])
        label = decode_label_png(row["label"]["bytes"], shape, ignore_index)
        confidence = decode_gray_png(row["confidence"]["bytes"], shape)
        return cls(label, confidence, segments, classes, ignore_index)


@dataclass(frozen=True)
class CorrectedLabel:
    """The label of one image after its corrections.

    Attributes:
        label: class ids [H, W].
        confidence: uint8 [H, W], in 255ths; 255 where the class is by hand, 0 where a hand says unknown.
        segments: the class id of each segment_id; the ignore index where a hand says unknown.
        hand: bool [H, W], pixels whose value a hand has given.
        good: a person says that all that the image shows is right.
    """

    label: LabelMap
    confidence: NDArray[np.uint8]
    segments: dict[int, int]
    hand: BoolMask
    good: bool

    def trusted(self, ignore_index: int) -> LabelMap:
        """The label as a hand-made mask, [H, W]: whole if the image is good, else only what is by hand."""
        unknown = self.label.dtype.type(ignore_index)
        return self.label if self.good else np.where(self.hand, self.label, unknown)


def apply_corrections(stored: StoredLabel, corrections: Iterable[Correction]) -> CorrectedLabel:
    """Apply the corrections of one image in the order of their keys; what is undone has no effect.

    A segment is what is seen of it: larger segments lie below smaller ones, as they were drawn. On pixels
    that two corrections have in common, the later one wins. What was split off is no longer its segment's.

    Args:
        stored: the label as it is in the label set; it is not changed.
        corrections: all of the image, or some.

    Raises:
        ValueError: a class or a segment that the label set does not have, or a mask of another size.
    """
    canvas = _Canvas(stored)
    good = False
    for one in effective(corrections):
        if one.kind == "good":
            good = True
        elif one.kind == "paint":
            canvas.paint(canvas.mask(one), canvas.id_of(one.class_name))
        elif one.kind == "split":
            canvas.split(one.segments[0], canvas.mask(one), canvas.id_of(one.class_name))
        else:
            name = stored.classes[0] if one.kind == "erase" else one.class_name
            if one.kind == "merge":
                canvas.merge(one.segments)
            canvas.name(one.segments, canvas.id_of(name))
    return CorrectedLabel(canvas.label, canvas.confidence, canvas.classes, canvas.hand, good)


@dataclass
class _Canvas:
    stored: StoredLabel
    merged: dict[int, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.label, self.confidence = self.stored.label.copy(), self.stored.confidence.copy()
        self.hand = np.zeros(self.label.shape, bool)
        self.split_off = np.zeros(self.label.shape, bool)
        self.classes = {int(s["segment_id"]): int(s["class_id"]) for s in self.stored.segments}

    @cached_property
    def layers(self) -> _Layers:
        return _Layers(self.stored)

    def id_of(self, name: str | None) -> int:
        if name is None:
            return self.stored.ignore_index
        if name not in self.stored.classes:
            raise ValueError(f"class {name!r} is none of the label set's")
        return list(self.stored.classes).index(name)

    def mask(self, one: Correction) -> BoolMask:
        if one.size != self.label.shape or one.mask is None:
            raise ValueError(f"a mask of {one.size[1]}x{one.size[0]} pixels on another image")
        return decode_rle(one.size, one.mask)

    def merge(self, segments: Sequence[int]) -> None:
        group = frozenset().union(*map(self._group, segments))
        self.merged |= dict.fromkeys(group, group)

    def name(self, segments: Sequence[int], class_id: int) -> None:
        for number in sorted(frozenset().union(*map(self._group, segments))):
            self.paint(self.layers.show(number) & ~self.split_off, class_id)
            self.classes[number] = class_id

    def split(self, segment: int, mask: BoolMask, class_id: int) -> None:
        part = np.zeros_like(mask)
        for number in self._group(segment):
            part |= self.layers.show(number)
        part &= mask
        self.split_off |= part
        self.paint(part, class_id)

    def paint(self, mask: BoolMask, class_id: int) -> None:
        self.label[mask] = class_id
        self.confidence[mask] = 0 if class_id == self.stored.ignore_index else SURE
        self.hand |= mask

    def _group(self, segment: int) -> frozenset[int]:
        return self.merged.get(segment, frozenset({segment}))


class _Layers:
    """Which segment each pixel shows.

    Whether a segment was drawn is not stored, and what it was drawn over may have its class. So one whose
    free pixels have its class, or are unknown, counts as seen; others are transparent until a correction.
    """

    def __init__(self, stored: StoredLabel) -> None:
        height, width = stored.label.shape
        # As `render_label_map` draws them; the first is the lowest.
        rows = sorted(stored.segments, key=lambda row: (-row["area"], row["score"]))
        self._segments = decode_segments(rows, height, width)
        self._rank = {int(row["segment_id"]): rank for rank, row in enumerate(rows, 1)}
        self._owner = np.zeros((height, width), np.int32)
        for rank in range(len(rows), 0, -1):
            inside, mask = _place(self._segments[rank - 1])
            free = mask & (self._owner[inside] == 0)
            values = stored.label[inside][free]
            if np.isin(values, (rows[rank - 1]["class_id"], stored.ignore_index)).all():
                self._owner[inside][free] = rank

    def show(self, segment: int) -> BoolMask:
        """bool [H, W], what is seen of a segment. It is in its place among the others from now on.

        Raises:
            ValueError: there is no such segment.
        """
        if segment not in self._rank:
            raise ValueError(f"segment {segment} is none of the image's {len(self._rank)}")
        rank = self._rank[segment]
        inside, mask = _place(self._segments[rank - 1])
        if not (self._owner[inside] == rank).any():
            self._owner[inside][mask & (self._owner[inside] < rank)] = rank
        return self._owner == rank


def _place(segment: Segment) -> tuple[tuple[slice, slice], BoolMask]:
    x, y, width, height = segment.box
    return (slice(y, y + height), slice(x, x + width)), segment.mask
