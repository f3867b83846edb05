"""Named segments to label maps, confidences and rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segray.models.label_map import SegmentClasses
from segray.models.label_space import label_space
from segray.models.masks import Segment, decode_rle, full_mask, segment_from_mask
from segray.pipelines.annotation.stages.encode import encode_segments
from segray.pipelines.annotation.stages.schemas import classes_from_bytes, classes_to_bytes
from segray.pipelines.engine.rows import Row
from segray.pipelines.io.label_png import decode_gray_png

SPACE = label_space("picture_book")
IMAGE: Row = {"image_id": "a.png", "status": "ok", "height": 10, "width": 12}


def _naming(class_ids: list[int], confidence: list[float], named: list[bool]) -> SegmentClasses:
    k = len(class_ids)
    floats = np.linspace(0.1, 0.4, k, dtype=np.float32)
    return SegmentClasses(
        np.array(class_ids, np.int16),
        floats,
        (floats / 2).astype(np.float32),
        np.array(confidence, np.float32),
        np.array([(c + 1) % 3 for c in class_ids], np.int16),
        np.array(named),
    )


def _box(x: int, y: int, w: int, h: int) -> Segment:
    mask = np.zeros((10, 12), bool)
    mask[y : y + h, x : x + w] = True
    return segment_from_mask(mask, 0.75, 0.5)


def test_naming_survives_its_bytes() -> None:
    naming = _naming([1, 0, 300], [0.5, 0.25, 1.0], [True, False, True])
    again = classes_from_bytes(classes_to_bytes(naming))
    for name in ("class_id", "score", "margin", "confidence", "runner_up_class", "has_class"):
        assert np.array_equal(getattr(again, name), getattr(naming, name))
        assert getattr(again, name).dtype == getattr(naming, name).dtype
    assert classes_from_bytes(classes_to_bytes(_naming([], [], []))).class_id.size == 0


def test_encoding_paints_counts_and_measures() -> None:
    # A class, a background name on half of it, and below it one that got no name.
    segments = [_box(0, 0, 8, 5), _box(4, 0, 4, 5), _box(0, 5, 12, 5)]
    naming = _naming([2, 0, 0], [1.0, 0.6, 0.9], [True, True, False])
    embeddings = np.arange(12, dtype=np.float16)
    row: Any = encode_segments(IMAGE, segments, naming, embeddings.tobytes(), 255)
    label, confidence = decode_gray_png(row["label"]), decode_gray_png(row["confidence"])
    assert label.shape == confidence.shape == (10, 12)
    assert (label[:5, :4] == 2).all()
    assert (label[:5, 4:] == 0).all()
    assert (confidence[:5, :4] == 255).all()
    assert (confidence[:5, 4:8] == 153).all()
    assert not label[5:].any()
    assert not confidence[5:].any()
    assert (row["class_ids"], row["class_pixels"]) == ([0, 2], [100, 20])
    assert row["labelled_fraction"] == pytest.approx(40 / 120)
    assert row["mean_confidence"] == pytest.approx((1.0 + 0.6) / 2)
    assert [s["segment_id"] for s in row["segments"]] == [0, 1, 2]
    for k, (found, segment) in enumerate(zip(row["segments"], segments, strict=True)):
        assert np.array_equal(decode_rle(**found["rle"]), full_mask(segment, 10, 12))
        assert (found["bbox"], found["area"]) == ([*segment.box], segment.area)
        assert (found["predicted_iou"], found["stability_score"]) == (0.75, 0.5)
        assert found["class_id"] == naming.class_id[k]
        assert found["runner_up_class"] == naming.runner_up_class[k]
        assert np.array_equal(np.frombuffer(found["embedding"], np.float16), embeddings[4 * k : 4 * k + 4])


@pytest.mark.parametrize("named", [[], [False]])
def test_an_image_without_a_named_segment_is_all_background(named: list[bool]) -> None:
    segments = [_box(1, 1, 2, 2) for _ in named]
    row: Any = encode_segments(
        IMAGE, segments, _naming([0] * len(named), [0.5] * len(named), named), None, 255
    )
    assert not decode_gray_png(row["label"]).any()
    assert (row["class_ids"], row["class_pixels"]) == ([0], [120])
    assert (row["labelled_fraction"], row["mean_confidence"]) == (0, 0)
    assert [segment["embedding"] for segment in row["segments"]] == [None] * len(named)
