"""Encode: classified segments become a label map, its confidence, and rows of the segments table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap, SegmentClasses, covered_pixels, label_dtype, render_label_map
from segray.models.label_space import LabelSpace
from segray.models.masks import Segment, encode_rle, unpack
from segray.pipelines.annotation.stages.base import Stage
from segray.pipelines.annotation.stages.schemas import ENCODED_SCHEMA, classes_from_bytes
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.rows import Row, SegmentRow
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.label_set.schema import class_counts

Maps = tuple[LabelMap, NDArray[np.uint8]]
"""Class ids and confidence in 255ths, both [H, W]."""


class EncodeLabels(Stage):
    """CLASSIFIED_SCHEMA to ENCODED_SCHEMA."""

    name, schema = "encode", ENCODED_SCHEMA

    def __init__(self, space: LabelSpace, guard: Guard) -> None:
        super().__init__(guard)
        self._ignore_index = space.ignore_index

    def process(self, rows: list[Row]) -> list[Row]:
        """Add the columns of the label set."""
        return [encode_row(row, self._ignore_index) for row in rows]


def encode_row(row: Row, ignore_index: int) -> Row:
    """The label set's columns of one classified image."""
    pixels = None if row["label"] is None else _pixels(row, ignore_index)
    if row["packed_segments"] is None:
        assert pixels is not None
        label, confidence = pixels
        row = _with_maps(row, label, confidence, confidence > 0, ignore_index)
        return {**row, "segments": []}
    segments, classes = unpack(row["packed_segments"]), classes_from_bytes(row["classes"])
    return encode_segments(row, segments, classes, row["embeddings"], ignore_index, pixels)


def _pixels(row: Row, ignore_index: int) -> Maps:
    """The class of each pixel by itself, and its confidence."""
    shape = (row["height"], row["width"])
    label = np.frombuffer(row["label"], label_dtype(ignore_index)).reshape(shape)
    return label, np.frombuffer(row["confidence"], np.uint8).reshape(shape)


def encode_segments(
    row: Row,
    segments: list[Segment],
    classes: SegmentClasses,
    embeddings: bytes | None,
    ignore_index: int,
    pixels: Maps | None = None,
) -> Row:
    """Add label map and confidence (PNG), their counts, and the segments as rows.

    Args:
        row: of the image; its width and height are used.
        segments: K of them.
        classes: of the segments.
        embeddings: float16 [K, D], or None.
        ignore_index: the label that counts for no class.
        pixels: label and confidence of pixels in no segment; None: they have no class.
    """
    height, width = row["height"], row["width"]
    label, confidence = render_label_map(segments, classes, height, width, ignore_index)
    covered = covered_pixels(segments, classes.has_class, height, width)
    if classes.unknown is not None:
        covered &= label != ignore_index
    if pixels is not None:
        outside = ~covered_pixels(segments, np.ones(len(segments), np.bool_), height, width)
        label[outside], confidence[outside] = (values[outside] for values in pixels)
        covered |= outside & (confidence > 0)
    row = _with_maps(row, label, confidence, covered, ignore_index)
    return {**row, "segments": segment_rows(segments, classes, embeddings, height, width)}


def _with_maps(
    row: Row,
    label: LabelMap,
    confidence: NDArray[np.uint8],
    covered: NDArray[np.bool_],
    ignore_index: int,
) -> Row:
    levels = confidence[covered]
    ids, pixels = class_counts(label, ignore_index)
    return {
        **row,
        "label": encode_gray_png(label),
        "confidence": encode_gray_png(confidence),
        "class_ids": ids,
        "class_pixels": pixels,
        "mean_confidence": float(levels.mean()) / 255 if levels.size else 0.0,
        "labelled_fraction": levels.size / label.size,
    }


def segment_rows(
    segments: list[Segment], classes: SegmentClasses, embeddings: bytes | None, height: int, width: int
) -> list[SegmentRow]:
    """One image's rows of the segments table; embeddings as float16 bytes."""
    size = len(embeddings) // len(segments) if embeddings and segments else 0
    rows: list[SegmentRow] = []
    for k, segment in enumerate(segments):
        rle_size, counts = encode_rle(segment, height, width)
        rows.append(
            {
                "segment_id": k,
                "bbox": [float(v) for v in segment.box],
                "area": segment.area,
                "class_id": int(classes.class_id[k]),
                "score": float(classes.score[k]),
                "margin": float(classes.margin[k]),
                "runner_up_class": int(classes.runner_up_class[k]),
                "predicted_iou": segment.predicted_iou,
                "stability_score": segment.stability_score,
                "rle": {"size": rle_size, "counts": counts},
                "embedding": embeddings[k * size : (k + 1) * size] if embeddings and size else None,
            }
        )
    return rows
