"""What travels through a Ray Data graph: one row per image, good or bad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Required, TypedDict

if TYPE_CHECKING:
    from segray.models.masks import Segment


class RLE(TypedDict):
    """COCO's compressed run-length encoding of a mask.

    Attributes:
        size: [height, width] of the mask in pixels.
        counts: the compressed runs.
    """

    size: list[int]
    counts: bytes


class SegmentRow(TypedDict):
    """One segment of an image, as the segments table stores it, with the embedding as float16 bytes."""

    segment_id: int
    bbox: list[float]
    area: int
    class_id: int
    score: float
    margin: float
    runner_up_class: int
    predicted_iou: float
    stability_score: float
    rle: RLE
    embedding: bytes | None


class Row(TypedDict, total=False):
    """One image. Every stage adds columns, and its Arrow schema says which of them travel further.

    The types are those of an image whose status is "ok"; a bad image has a reason in `error` and null in
    every column that needs its pixels.
    """

    image_id: Required[str]
    status: Required[str]
    error: str | None
    # The list of images
    uri: str
    problem: str | None
    # Read
    file: bytes | None
    sha256: str
    width: int
    height: int
    pixels: bytes | memoryview | None
    reduced: int
    # Segment
    packed_segments: bytes | None
    unpacked_segments: list[Segment]  # within a worker that holds both models
    # Classify
    classes: bytes
    embeddings: bytes | None
    label: bytes | memoryview
    confidence: bytes | memoryview
    # Encode
    class_ids: list[int] | None
    class_pixels: list[int] | None
    mean_confidence: float
    labelled_fraction: float
    segments: list[SegmentRow] | None
    # Predict
    class_confidence: list[float]
    note: str | None
    # Encode, of predictions
    mask: bytes
    overlay: bytes | None
    confidence_png: bytes | None
    objects: str | None
