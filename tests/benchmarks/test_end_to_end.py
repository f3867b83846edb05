from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator

from benchmarks import common, end_to_end, masks, real_size
from benchmarks.labeller import Labeller
from segray.models.builtin.arch import CLIP_ARCH, SAM_ARCH, build_builtin_sam
from segray.models.clip.model import build_clip
from segray.models.masks import unpack
from segray.models.sam.generator import build_sam
from segray.pipelines.annotation.stages.read import read_row
from segray.pipelines.config.commands.annotate import AnnotateConfig, SamConfig
from segray.pipelines.config.loading import load
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row
from segray.pipelines.io.images import ImageOptions


def test_plain_way_labels_as_segray_does(tmp_path: Path) -> None:
    paths = common.draw_images(tmp_path / "images", 2, 11, 96)
    config = load(AnnotateConfig, None, [f"images={tmp_path}", "out=none", "classes=picture_book"])
    threads = torch.get_num_threads()
    try:
        assert end_to_end.plain_loop(config, paths, tmp_path / "plain", 1) > 0
        labeller = Labeller(config, 1)
        own = {path.name: labeller.label_segments(np.array(Image.open(path)))[0] for path in paths}
    finally:
        torch.set_num_threads(threads)
    plain = end_to_end.label_files(tmp_path / "plain", paths)
    assert all(label.any() for label in plain.values())
    assert end_to_end.same_pixels(own, plain) >= 0.995


def test_two_pictures_at_once_get_the_drawn_masks_of_the_plain_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the built-in SAM in place of a large one; its worker has two threads."""
    monkeypatch.setattr(masks, "_PROMPTS", 256)
    monkeypatch.setattr(masks, "_SAMPLES", 96)
    monkeypatch.setenv(real_size.SEED, "5")
    paths = common.draw_images(tmp_path / "images", 2, 11, 96)
    sam = SamConfig(model="builtin", pred_iou_thresh=0.9)
    stage = real_size.SegmentDrawn(sam, PoolPlan(1, 1, 1, 0, threads=2, batch_size=2), Guard(Ledger(), 2))
    with stage.drawn:
        rows = stage.process([read_row(_manifest_row(path), ImageOptions(), False) for path in paths])
    plain = build_sam("builtin")[0]
    options = {"points_per_side": 16, "pred_iou_thresh": 0.9, "stability_score_thresh": 0.8}
    with masks.DrawnOutputs(5).instead_of(plain):
        records = SamAutomaticMaskGenerator(plain, **options).generate(np.zeros((96, 96, 3), np.uint8))
    assert len(records) > 3
    for row in rows:
        assert masks.matched_iou(unpack(row["packed_segments"] or b""), records, (96, 96)) == [1.0] * len(
            records
        )


def _manifest_row(path: Path) -> Row:
    return {"image_id": path.name, "uri": str(path), "problem": None, "status": "ok"}


def test_random_weights_fit_the_models_that_the_words_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The networks are small here: real ones take a gigabyte."""
    monkeypatch.setattr(real_size, "build_sam_vit_b", lambda: build_builtin_sam(SAM_ARCH))
    monkeypatch.setattr("open_clip.get_model_config", lambda _: CLIP_ARCH)
    words = real_size.random_models(tmp_path, 5)
    config = load(AnnotateConfig, None, [f"images={tmp_path}", "out=none", "classes=picture_book", *words])
    assert (config.sam.model, config.clip.model, config.label.threshold) == ("vit_b", "ViT-B-16", -1)
    sam, _ = build_sam("builtin", config.sam.weights)
    clip = build_clip("builtin", config.clip.weights)
    again = real_size.random_models(tmp_path, 5)
    assert again == words
    (other, _), token = build_sam("builtin", config.sam.weights), "mask_decoder.iou_token.weight"
    assert torch.equal(sam.state_dict()[token], other.state_dict()[token])
    assert clip.model.visual.proj.any()


def test_counts_missing_images_as_different() -> None:
    half = np.array([[1, 2]], np.uint8)
    truth = {"a": half, "b": np.zeros((1, 6), np.uint8)}
    assert end_to_end.same_pixels(truth, truth) == 1
    assert end_to_end.same_pixels({"a": np.array([[1, 0]], np.uint8)}, truth) == 1 / 8


def test_ratio_is_to_the_faster_plain_loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = common.draw_images(tmp_path / "images", 1, 11, 32)
    seconds = {1: 8.0, 2: 10.0}

    def run(work: Any) -> float:
        return 2.0 if work.func is end_to_end.command else seconds[work.args[-1]]

    monkeypatch.setattr(end_to_end, "available_cores", lambda: 2)
    monkeypatch.setattr(end_to_end, "in_fresh_process", run)
    monkeypatch.setattr(end_to_end, "stored_labels", lambda root: {paths[0].name: np.eye(2, dtype=np.uint8)})
    monkeypatch.setattr(
        end_to_end,
        "label_files",
        lambda folder, paths: {paths[0].name: np.full((2, 2), folder.name == "plain-1", np.uint8)},
    )
    found = end_to_end.measure(paths, tmp_path)
    assert found["ratio"] == 4
    assert found["same_pixels"] == 0.5
    assert list(found["ways"]) == ["plain loop, threads: 1", "plain loop, threads: 2", end_to_end.SEGRAY]


def test_a_loop_over_fewer_images_counts_by_its_rate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two of six: 4 s each and 10 s of set-up, against 6 s for all and 14 s of set-up."""
    paths, clock = common.draw_images(tmp_path / "images", 6, 11, 32), iter([0.0, 18.0, 20.0, 40.0])

    def run(work: Any) -> float:
        if work.func is not end_to_end.command:
            assert work.args[1] == paths[:2]
        return 6.0 if work.func is end_to_end.command else 8.0

    monkeypatch.setattr(end_to_end, "in_fresh_process", run)
    monkeypatch.setattr("benchmarks.end_to_end.time.perf_counter", lambda: next(clock))
    labels = {path.name: np.eye(2, dtype=np.uint8) for path in paths}
    monkeypatch.setattr(end_to_end, "stored_labels", lambda root: labels)
    monkeypatch.setattr(
        end_to_end, "label_files", lambda folder, some: {p.name: labels[p.name] for p in some}
    )
    found = end_to_end.measure(paths, tmp_path, loop_images=2, one_core=False)
    assert [way["images"] for way in found["ways"].values()] == [2, 6]
    assert found["ratio"] == pytest.approx((6 / 6) / (2 / 8))
    assert found["ratio_with_setup"] == pytest.approx((24 + 10) / 20)
    assert found["same_pixels"] == 1
