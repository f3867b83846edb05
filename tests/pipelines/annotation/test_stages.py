from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from segment_anything.modeling import Sam

from segray.models.annotators.sam import SamModel
from segray.models.clip.gem import dense_features
from segray.models.clip.model import build_clip, preprocess
from segray.models.clip.text import ZeroShotClassifier
from segray.models.clip.zero_shot import classify_segments, dense_labels, pool_segments
from segray.models.label_space import label_space
from segray.models.masks import unpack
from segray.models.sam.generator import SAM_MODELS, MaskGenerator, build_sam
from segray.pipelines.annotation.stages.classify import ClassifySegments, TextEmbeddings
from segray.pipelines.annotation.stages.encode import EncodeLabels
from segray.pipelines.annotation.stages.features import check_clip_options, clip_features
from segray.pipelines.annotation.stages.schemas import (
    CLASSIFIED_SCHEMA,
    ENCODED_SCHEMA,
    READ_SCHEMA,
    SEGMENTED_SCHEMA,
    classes_from_bytes,
    pixels_of,
)
from segray.pipelines.annotation.stages.segment import SegmentImages, check_sam_options, mask_options
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.annotate import ClipConfig, SamConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.io.label_png import decode_gray_png
from segray.pipelines.scenes.picture_book import draw_scene
from tests.pipelines.annotation.reading import GUARD, reading, scenes_and_bad_files
from tests.pipelines.plain_runs import PLAN, config_of, label_plainly, manifest_table

SPACE = label_space("picture_book")
SAM = SamConfig(model="builtin", points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes_and_bad_files(tmp_path_factory.mktemp("stages") / "images")


@pytest.fixture(scope="module")
def read(images: Path) -> pa.Table:
    return reading()(manifest_table(images))


@pytest.fixture(scope="module")
def segmented(read: pa.Table) -> pa.Table:
    return SegmentImages(SAM, PLAN, GUARD)(read)


@pytest.fixture(scope="module")
def text() -> TextEmbeddings:
    """Random directions that stand for two background names and nine classes."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(11, 64)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return TextEmbeddings(embeddings, np.array([0, 0, *range(1, 10)]), 50.0, 0.05)


@pytest.fixture(scope="module")
def named(segmented: pa.Table, text: TextEmbeddings) -> pa.Table:
    return ClassifySegments(ClipConfig(model="builtin"), text, True, PLAN, GUARD)(segmented)


def _ok(table: pa.Table) -> list[Any]:
    return [row for row in table.to_pylist() if row["status"] == "ok"]


def test_an_empty_block_stays_empty(text: TextEmbeddings) -> None:
    nothing = manifest_table_of_nothing()
    assert reading()(nothing).schema == READ_SCHEMA
    encoded = EncodeLabels(SPACE, GUARD)(CLASSIFIED_SCHEMA.empty_table())
    assert (encoded.num_rows, encoded.schema) == (0, ENCODED_SCHEMA)


def manifest_table_of_nothing() -> pa.Table:
    return pa.schema(
        [("image_id", pa.string()), ("uri", pa.string()), ("problem", pa.string())]
    ).empty_table()


# Segment


def test_segmenting_keeps_every_row_and_lies_inside_the_image(read: pa.Table, segmented: pa.Table) -> None:
    assert segmented.schema == SEGMENTED_SCHEMA
    assert segmented.select(read.schema.names) == read
    for row in segmented.to_pylist():
        if row["status"] != "ok":
            assert row["packed_segments"] is None
            continue
        segments = unpack(row["packed_segments"])
        assert segments
        for segment in segments:
            x, y, w, h = segment.box
            assert 0 <= x < x + w <= row["width"]
            assert 0 <= y < y + h <= row["height"]


def test_on_a_cpu_segments_do_not_depend_on_the_batch(read: pa.Table, segmented: pa.Table) -> None:
    stage = SegmentImages(SAM, PLAN, GUARD)
    alone = pa.concat_tables([stage(read.slice(i, 1)) for i in range(read.num_rows)])
    assert alone == segmented


def test_on_a_cpu_segments_do_not_depend_on_the_number_of_threads(
    read: pa.Table, segmented: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = SegmentImages(SAM, replace(PLAN, threads=3), GUARD)
    generate = stage.model().generate
    seen: set[tuple[int, int]] = set()
    together = threading.Barrier(3, timeout=60)

    def watched(images: list[Any], sizes: list[Any]) -> list[list[Any]]:
        together.wait()
        seen.add((threading.get_ident(), torch.get_num_threads()))
        return generate(images, sizes)

    monkeypatch.setattr(stage.model(), "generate", watched)
    fine = np.flatnonzero([status == "ok" for status in read["status"].to_pylist()])
    assert stage(read.take(fine)) == segmented.take(fine)
    assert len({thread for thread, _ in seen}) == 3
    assert {cores for _, cores in seen} == {1}


def test_reduced_pictures_get_labels_of_full_size(tmp_path: Path, text: TextEmbeddings) -> None:
    scene = Image.fromarray(draw_scene(0, 3, 192).image)
    scene.resize((901, 601)).save(tmp_path / "large.jpg", quality=95)
    table = manifest_table(tmp_path)
    labels = {}
    for size in (None, (192, 160)):
        read = reading(ImageOptions(jpeg_size=size))(table)
        assert read["reduced"].to_pylist() == [1 if size is None else 2]
        named = ClassifySegments(ClipConfig(model="builtin"), text, True, PLAN, GUARD)(
            SegmentImages(SamConfig(model="builtin"), PLAN, GUARD)(read)
        )
        (row,) = EncodeLabels(SPACE, GUARD)(named).to_pylist()
        assert (row["status"], row["width"], row["height"]) == ("ok", 901, 601)
        assert {tuple(segment["rle"]["size"]) for segment in row["segments"]} == {(601, 901)}
        labels[size] = decode_gray_png(row["label"])
        assert labels[size].shape == (601, 901)
    whole, reduced = labels.values()
    assert len(np.unique(whole)) > 1
    assert (whole == reduced).mean() > 0.97


def test_weights_that_changed_are_told_in_the_call(read: pa.Table, text: TextEmbeddings) -> None:
    """Ray tells of an actor whose constructor fails without the reason."""
    changed = {"sha256": "0" * 64}
    sam = SegmentImages(SAM.model_copy(update=changed), PLAN, GUARD)
    clip = ClassifySegments(ClipConfig(model="builtin").model_copy(update=changed), text, True, PLAN, GUARD)
    for stage in (sam, clip):
        with pytest.raises(UserError, match="sha256"):
            stage(read)


def test_a_sam_that_cannot_be_compiled_is_told_in_the_call(
    read: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And makes no error rows."""

    def backend(*_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nat all")

    own = torch.compile
    # Any function will do for one that cannot be compiled, and tracing the encoder takes long.
    monkeypatch.setattr(torch, "compile", lambda *_, **__: own(torch.square, backend=backend))
    stage = SegmentImages(SAM.model_copy(update={"compile": True}), PLAN, GUARD)
    with pytest.raises(UserError) as caught:
        stage(read)
    said = "sam.compile=true: No working C++ compiler found; sam.compile=false needs no compiler"
    assert str(caught.value) == said


def test_precision_reaches_the_models(
    segmented: pa.Table, named: pa.Table, read: pa.Table, text: TextEmbeddings
) -> None:
    other = SegmentImages(SAM.model_copy(update={"precision": "bf16"}), PLAN, GUARD)(read)
    assert other.schema == segmented.schema
    assert other != segmented
    rows = ClassifySegments(ClipConfig(model="builtin", precision="bf16"), text, True, PLAN, GUARD)(segmented)
    for row, exact in zip(_ok(rows), _ok(named), strict=True):
        found, expected = (np.frombuffer(one["embeddings"], np.float16) for one in (row, exact))
        assert not np.array_equal(found, expected)
        np.testing.assert_allclose(found, expected, atol=0.05)


def generator(sam: Sam, config: SamConfig) -> MaskGenerator:
    return SamModel(sam).source("cpu", mask_options(config))


def test_null_options_are_the_model_s_own() -> None:
    sam, _ = build_sam("builtin")
    own, entry = generator(sam, SamConfig(model="builtin")), SAM_MODELS["builtin"]
    assert len(own.grids[0]) == entry.points_per_side**2
    assert own.pred_iou_thresh == entry.pred_iou_thresh
    assert own.stability_score_thresh == entry.stability_score_thresh
    config = SamConfig(
        points_per_side=4,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.5,
        stability_score_offset=0.25,
        box_nms_thresh=0.6,
        crop_n_layers=1,
        crop_nms_thresh=0.4,
        crop_overlap_ratio=0.2,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=5,
        points_per_batch=3,
        precision="bf16",
    )
    chosen = generator(sam, config)
    assert [len(grid) for grid in chosen.grids] == [16, 4]
    for name in ("pred_iou_thresh", "stability_score_thresh", "stability_score_offset", "box_nms_thresh"):
        assert getattr(chosen, name) == getattr(config, name)
    for name in ("crop_nms_thresh", "crop_overlap_ratio", "min_mask_region_area", "points_per_batch"):
        assert getattr(chosen, name) == getattr(config, name)
    wrong = SamConfig(model="builtin", points_per_side=2, crop_n_layers=2, crop_n_points_downscale_factor=2)
    for refuse in (partial(generator, sam), check_sam_options):
        with pytest.raises(ValueError, match="crop_n_points_downscale_factor"):
            refuse(wrong)


# Name


def test_classes_follow_the_method(segmented: pa.Table, named: pa.Table, text: TextEmbeddings) -> None:
    assert named.schema == CLASSIFIED_SCHEMA
    clip = build_clip("builtin")
    classifier = text.to_classifier()
    for before, row in zip(_ok(segmented), _ok(named), strict=True):
        batch = preprocess([pixels_of(before)], clip.image_size, clip.mean, clip.std)
        with torch.inference_mode():
            grid = dense_features(clip.model.visual, batch, features="gem", depth=clip.depth)[0]
        segments = unpack(before["packed_segments"])
        pooled = pool_segments(grid, segments, row["height"], row["width"]).half()
        assert row["embeddings"] == pooled.numpy().tobytes()
        found = classes_from_bytes(row["classes"])
        expected = classify_segments(pooled.float(), classifier, 0.05)
        for name in ("class_id", "score", "margin", "confidence", "runner_up_class", "has_class"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_on_a_cpu_names_do_not_depend_on_the_batch(
    segmented: pa.Table, named: pa.Table, text: TextEmbeddings
) -> None:
    stage = ClassifySegments(ClipConfig(model="builtin"), text, True, PLAN, GUARD)
    alone = pa.concat_tables([stage(segmented.slice(i, 1)) for i in range(segmented.num_rows)])
    assert alone == named


def test_without_segments_every_pixel_is_named_by_itself(read: pa.Table, text: TextEmbeddings) -> None:
    config = ClipConfig(model="builtin", features="clip")
    named = ClassifySegments(config, text, True, PLAN, GUARD)(read)
    assert named.schema == CLASSIFIED_SCHEMA
    clip = build_clip("builtin")
    encoded = EncodeLabels(SPACE, GUARD)(named)
    assert encoded.schema == ENCODED_SCHEMA
    for before, row in zip(_ok(read), _ok(encoded), strict=True):
        grid = clip_features(clip, config, [pixels_of(before)])[0]
        shape = (row["height"], row["width"])
        label, confidence, _ = dense_labels(grid, text.to_classifier(), *shape, text.threshold)
        assert np.array_equal(decode_gray_png(row["label"]), label)
        assert np.array_equal(decode_gray_png(row["confidence"]), confidence)
        assert row["segments"] == []
        assert row["labelled_fraction"] == pytest.approx((confidence > 0).mean())
        assert confidence.any()
        assert row["mean_confidence"] == pytest.approx(confidence[confidence > 0].mean() / 255)
        assert sum(row["class_pixels"]) == label.size
    assert [r["error"] for r in encoded.to_pylist()] == [r["error"] for r in read.to_pylist()]


def test_bad_rows_keep_their_reason_through_all_stages(named: pa.Table) -> None:
    encoded = EncodeLabels(SPACE, GUARD)(named)
    for row in encoded.to_pylist()[:2]:
        assert row["error"]
        assert [row[name] for name in ("label", "confidence", "class_ids", "segments")] == [None] * 4


def test_embeddings_and_size_are_options(segmented: pa.Table, text: TextEmbeddings) -> None:
    plain = ClipConfig(model="builtin", features="clip", image_size=64)
    stage = ClassifySegments(plain, text, False, PLAN, GUARD)
    assert all(row["embeddings"] is None for row in stage(segmented).to_pylist())
    clip = build_clip("builtin")
    found = clip_features(clip, plain, [np.zeros((9, 7, 3), np.uint8)] * 2)
    assert [grid.shape for grid in found] == [(4, 4, 64)] * 2
    wrong = ClipConfig(model="builtin", image_size=70)
    with pytest.raises(ValueError, match="does not fit patches of 16x16 px"):
        clip_features(clip, wrong, [np.zeros((9, 7, 3), np.uint8)])
    with pytest.raises(ValueError, match="does not fit patches of 16x16 px"):
        check_clip_options(clip, wrong)


def test_text_embeddings_are_the_classifier() -> None:
    classifier = ZeroShotClassifier(torch.eye(3), torch.tensor([0, 1, 1]), 12.5)
    text = TextEmbeddings.from_classifier(classifier, 0.25)
    again = text.to_classifier()
    assert torch.equal(again.embeddings, classifier.embeddings)
    assert torch.equal(again.class_ids, classifier.class_ids)
    assert (again.logit_scale, text.threshold) == (12.5, 0.25)


# All of them


def test_the_stages_make_a_whole_label_set_without_ray(images: Path, tmp_path: Path) -> None:
    label_plainly(config_of(images, tmp_path / "out"), [2, 3])
    report = verify(str(tmp_path / "out"))
    assert report.problems == []
    assert (report.n_ok, report.n_error, report.n_skipped) == (3, 1, 1)
