from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from segment_anything import SamAutomaticMaskGenerator

from benchmarks import annotate, common, end_to_end, gem, jpeg, masks, memory, store, throughput, zero_shot
from benchmarks.labeller import Labeller
from benchmarks.memory import Sample
from benchmarks.throughput import Timing
from segray.models.label_map import SegmentClasses
from segray.models.label_space import label_space
from segray.models.masks import Segment, segment_from_mask
from segray.models.metrics import mean_iou
from segray.models.sam.generator import MaskGenerator, build_sam
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.scenes.picture_book import Scene, draw_scene
from tests.benchmarks.programs import run
from tools.sam_task import TRAIN_SEED

QUICK = "sam.points_per_side=2"


def test_zero_shot_writes_the_promised_figures(tmp_path: Path) -> None:
    out = str(tmp_path / "deep" / "zero_shot.json")
    words = ["--scenes", "2", "--seeds", "11", "--size", "64", "--threads", "1", "--out", out, QUICK]
    threads = torch.get_num_threads()
    try:
        record, printed = run(zero_shot.main, *words)
    finally:
        torch.set_num_threads(threads)
    assert record["command"] == "python -m benchmarks.zero_shot " + " ".join(words)
    assert record["seeds"] == [11]
    assert record["config"] == [QUICK]
    assert record["objects"] == sum(len(draw_scene(11, i, 64).objects) for i in range(2))
    refined = {"miou_clip_refined", "miou_gem_refined"}
    shares = {"miou_clip", "miou_gem", "miou_sam_gem", "sam_best_iou", "sam_objects_found"} | refined
    counts = {"sam_segments_per_image", "sam_false_segments_per_image"}
    assert record["figures"].keys() == shares | counts | {"gem_names_true_masks"}
    for name, spread in record["figures"].items():
        assert spread["sd"] is None
        assert spread["values"] == [spread["mean"]]
        assert 0 <= spread["mean"] <= (4 * 3 if name in counts else 1)
    assert list(record["class_iou_sam_gem"])[:2] == ["background", "tree"]
    assert len(record["class_iou_sam_gem"]) == 10
    for line in ("CLIP patches", "SAM + GEM", "SAM: false segments an image", "sun", out):
        assert line in printed


@pytest.mark.parametrize(
    ("program", "option"),
    [
        (zero_shot.main, "--seeds"),
        (annotate.main, "--seed"),
        (memory.main, "--seed"),
        (end_to_end.main, "--seed"),
        (store.main, "--seed"),
        (jpeg.main, "--seed"),
    ],
)
def test_scenes_of_the_training_seed_are_refused(program: Any, option: str) -> None:
    result = CliRunner().invoke(program, [option, str(TRAIN_SEED)])
    assert result.exit_code == 2
    assert f"the built-in models were trained on scenes of seed {TRAIN_SEED}" in result.output


def test_a_wrong_word_is_told_in_one_line() -> None:
    result = CliRunner().invoke(zero_shot.main, ["--scenes", "1", "sam.modle=vit_b"])
    assert result.exit_code == 1
    assert result.output.strip() == "Error: unknown key sam.modle; did you mean sam.model?"


def test_seeds_may_stand_side_by_side() -> None:
    words = ["--seeds", "1", "2", "3", "--scenes", "4", "a=5"]
    expected = ["--seeds", "1", "--seeds", "2", "--seeds", "3", "--scenes", "4", "a=5"]
    assert common.spread(words, "--seeds") == expected
    assert common.spread(expected, "--seeds") == expected


def test_spread_is_the_sample_standard_deviation() -> None:
    assert common.spread_of([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert common.spread_of([5.0])["sd"] is None


def test_table_is_aligned() -> None:
    assert common.table(["", "n"], [["ab", "1"], ["c", "23"]]) == "     n\nab   1\nc   23"


class _Oracle:
    """A labeller that knows the truth, as far as it is told to use it."""

    def __init__(self, scene: Scene, segments: list[Segment]) -> None:
        self.space = label_space("picture_book")
        self._scene, self._segments = scene, segments

    def segments(self, image: Any) -> list[Segment]:
        return self._segments

    def features(self, image: Any, kind: str) -> str:
        return kind

    def label_pixels(self, features: str, height: int, width: int, image: Any = None, steps: int = 0) -> Any:
        refined = image is self._scene.image and steps == zero_shot.STEPS
        knows = refined or features == "gem"
        return self._scene.mask if knows else np.zeros((height, width), np.uint8)

    def name(self, segments: list[Segment], features: Any, height: int, width: int) -> SegmentClasses:
        n = len(segments)
        ids = [self._scene.mask[s.box[1] :, s.box[0] :][np.nonzero(s.mask)][0] for s in segments]
        ones = np.ones(n, np.float32)
        return SegmentClasses(
            np.array(ids, np.int16), ones, ones, ones, np.zeros(n, np.int16), np.ones(n, bool)
        )


def _count(scene: Scene, segments: list[Segment]) -> tuple[dict[str, float], zero_shot.Seed]:
    seed = zero_shot.Seed({way: np.zeros((10, 10), np.int64) for way in zero_shot.WAYS})
    zero_shot.take(scene, cast("Labeller", _Oracle(scene, segments)), seed)
    return seed.figures(), seed


def test_the_truth_scores_full_marks_and_a_blind_model_none() -> None:
    scene = draw_scene(11, 0, 64)
    objects, class_ids = zero_shot.true_segments(scene)
    assert len(objects) == len(scene.objects) > 0
    assert [label_space("picture_book").classes[i] for i in class_ids] == list(scene.objects)
    figures, seed = _count(scene, objects)
    assert figures["miou_gem"] == figures["miou_sam_gem"] == 1
    assert figures["miou_clip"] < 0.5
    assert figures["miou_clip_refined"] == 1
    assert figures["sam_best_iou"] == figures["sam_objects_found"] == figures["gem_names_true_masks"] == 1
    assert (seed.segments, seed.false) == ([len(objects)], [0])
    blind, _ = _count(scene, [])
    assert blind["sam_best_iou"] == blind["sam_objects_found"] == blind["sam_segments_per_image"] == 0
    assert blind["miou_sam_gem"] == blind["miou_clip"]
    assert blind["gem_names_true_masks"] == 1


def test_a_segment_of_the_ground_is_false() -> None:
    scene = draw_scene(11, 0, 64)
    objects, _ = zero_shot.true_segments(scene)
    _, seed = _count(scene, [*objects, segment_from_mask(scene.instances == 0)])
    assert seed.segments == [len(objects) + 1]
    assert seed.false == [1]


def test_iou_of_overlapping_boxes() -> None:
    def box(x: int, y: int, side: int) -> Segment:
        return Segment((x, y, side, side), np.ones((side, side), bool), side * side, 1.0, 1.0)

    iou = zero_shot.iou_table([box(0, 0, 4), box(6, 6, 2)], [box(0, 0, 4), box(2, 2, 4), box(0, 0, 2)], 8, 8)
    np.testing.assert_allclose(iou, [[1.0, 4 / 28, 4 / 16], [0.0, 0.0, 0.0]])
    assert zero_shot.iou_table([], [box(0, 0, 4)], 8, 8).shape == (0, 1)


def test_summary_leaves_out_a_class_that_a_seed_never_saw() -> None:
    def seed(rows: list[list[int]]) -> zero_shot.Seed:
        confusion = {way: np.array(rows, np.int64) for way in zero_shot.WAYS}
        return zero_shot.Seed(confusion, [0.75], [2], [1], [True])

    seeds = [seed([[8, 0, 0], [0, 2, 0], [0, 0, 0]]), seed([[8, 2, 0], [0, 2, 0], [0, 0, 0]])]
    found = zero_shot.summary(seeds, ["background", "cat", "dog"])
    assert found["class_iou_sam_gem"]["cat"]["values"] == [1.0, 0.5]
    assert found["class_iou_sam_gem"]["dog"] is None
    assert found["figures"]["miou_gem"]["values"] == [1.0, mean_iou(seeds[1].confusion["gem"])]
    assert found["objects"] == 2


def test_rounds_alternate_their_order() -> None:
    order: list[str] = []

    def way(name: str) -> Any:
        def run() -> Timing:
            order.append(name)
            return Timing(1, 1.0, 1.0, {})

        return run

    taken = annotate.run_rounds({name: way(name) for name in "abc"}, 3)
    assert "".join(order) == "abc" + "cba" + "abc"
    assert {name: len(timings) for name, timings in taken.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratio_is_of_medians_and_labels_are_compared() -> None:
    def runs(*seconds: float, label: str = "x") -> list[Timing]:
        return [Timing(12, s, 2 * s, {"a": label, "b": "y"}) for s in seconds]

    taken = {annotate.BARE: runs(2, 3, 9), annotate.ONE: runs(4, 5, 3, label="z")}
    found = annotate.summary(taken)
    assert found["ratio"] == pytest.approx(3 / 4)
    assert found["ratio_wall"] == pytest.approx(3 / 4)
    assert found["ratio_default"] is None
    assert found["ratio_by_round"] == pytest.approx([2 / 4, 3 / 5, 9 / 3])
    assert found["ways"][annotate.ONE]["labels_equal_to_bare_loop"] == [0.5] * 3
    assert found["ways"][annotate.BARE]["images_per_second"] == pytest.approx(4)


def test_the_clock_runs_from_sams_first_image_to_the_last_part(tmp_path: Path, monkeypatch: Any) -> None:
    times = iter([10.0, 20.0, 30.0])
    monkeypatch.setattr("benchmarks.throughput.time", SimpleNamespace(time=lambda: next(times)))
    ledger = throughput.ClockedLedger(str(tmp_path / "clock.json"))
    ledger.begin("read", ["a", "b"])
    assert ledger.begin("sam", ["a"]) is False
    ledger.committed({"ok": 1}, 0.5)
    ledger.begin("sam", ["b"])
    ledger.committed({"ok": 1}, 0.5)
    assert json.loads((tmp_path / "clock.json").read_text()) == [10.0, 30.0]
    assert ledger.tally().rows["ok"] == 2


def test_bare_loop_labels_every_image(tmp_path: Path) -> None:
    paths = common.draw_images(tmp_path / "images", 2, 11, 64)
    config = load(AnnotateConfig, None, [QUICK, f"images={tmp_path}", "out=none", "classes=picture_book"])
    threads = torch.get_num_threads()
    try:
        timing = throughput.bare_loop(config, paths, 1)
    finally:
        torch.set_num_threads(threads)
    assert timing.images == len(timing.labels) == 2
    assert 0 < timing.seconds <= timing.wall_seconds


def test_both_mask_generators_are_timed_on_the_same_masks(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        found, said = run(
            masks.main, "--width", "96", "--height", "80", "--out", str(tmp_path / "masks.json")
        )
    finally:
        torch.set_num_threads(threads)
    assert "masks identical" in said
    assert found["ratio"] == pytest.approx(found["upstream_seconds"][0] / found["segray_seconds"])
    assert found["upstream_masks"] == found["segray_masks"] != [0]
    assert found["mean_matched_iou"] == pytest.approx(1, abs=0.01)
    assert found["precisions"].keys() == {"fp32"}
    assert found["changed_counts"] == 0
    assert found["images_per_second"] == pytest.approx(1 / found["segray_seconds"])


def test_a_gpu_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for program in (masks.main, gem.main):
        done = CliRunner().invoke(program, ["--device", "cuda"])
        assert done.exit_code == 2
        assert "no GPU that torch can use" in done.output


def test_a_picture_is_unpacked_and_labelled_whole_and_reduced(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    words = ["--images", "1", "--height", "900", "--width", "1200", "--out", str(tmp_path / "jpeg.json")]
    try:
        found, said = run(jpeg.main, *words)
    finally:
        torch.set_num_threads(threads)
    (one,) = found["images"]
    assert (one["reduced"], one["reduced_for_labels"]) == (1, 4)
    assert found["ratio"] == pytest.approx(one["whole_seconds"] / one["reduced_seconds"])
    assert 0 < found["object_iou"] <= found["same_labels"] <= 1
    assert "the same label at 1/4" in said


def test_drawn_outputs_reach_both_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small SAM with as many prompts; its own masks are gone on both sides, the drawn ones come."""
    monkeypatch.setattr(masks, "_PROMPTS", 16)
    monkeypatch.setattr(masks, "_SAMPLES", 96)
    sam, _ = build_sam("builtin")
    drawn = masks.DrawnOutputs(0)
    drawn.iou[:, 1:] = torch.linspace(0.9, 1, 48).view(16, 3)
    options: dict[str, Any] = {"points_per_side": 4, "points_per_batch": 5}
    picture = np.zeros((192, 192, 3), np.uint8)
    with drawn.instead_of(sam):
        records = SamAutomaticMaskGenerator(sam, **options).generate(picture)
        (segments,) = MaskGenerator(sam, **options).generate([picture])
        (pipelined,) = MaskGenerator(sam, **options, pipelined=True).generate([picture])
    assert [s.predicted_iou for s in pipelined] == [r["predicted_iou"] for r in records]
    assert masks.matched_iou(pipelined, records, (192, 192)) == [1.0] * len(records)
    assert [s.predicted_iou for s in segments] == [r["predicted_iou"] for r in records]
    assert len(records) > 3
    assert masks.matched_iou(segments, records, (192, 192)) == [1.0] * len(records)
    assert max(s.predicted_iou for s in segments) == 1


def test_rows_are_counted_in_finished_parts_only(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    counter = memory.PartCounter(tmp_path)
    assert counter.rows() == 0
    for name, n in (("part-00", 3), ("part-01", 4)):
        pq.write_table(pa.table({"image_id": ["x"] * n}), tmp_path / "labels" / f"{name}.parquet")
    (tmp_path / "labels" / ".part-02.parquet.tmp").write_bytes(b"half")
    assert counter.rows() == 7


def test_memory_of_a_process_that_lives_and_of_one_that_has_ended() -> None:
    assert 2**20 < memory.rss_of(os.getpid()) < 2**40
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert memory.rss_of(ended.pid) == 0


def test_a_command_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such weights')"]
    with pytest.raises(ValueError, match=r"status 1: no such weights$"):
        memory.watch(command, tmp_path, 0.01)


def test_memory_is_compared_between_a_tenth_and_the_end() -> None:
    rows = [0, 0, 10, 40, 100, 100]
    rss = [90, 400, 200, 210, 220, 300]
    samples = [Sample(float(i), m * common.MIB, n) for i, (m, n) in enumerate(zip(rss, rows, strict=True))]
    found = memory.summary(samples, 100)
    assert found["ratio"] == 1.5
    assert (found["rss_mib_at_10_percent"], found["rss_mib_at_end"], found["rss_mib_peak"]) == (200, 300, 400)
    assert found["curve"][-1] == [5.0, 100, 300]
    with pytest.raises(ValueError, match="shorter --interval"):
        memory.summary(samples[:4], 100)


def test_thinned_samples_keep_the_last() -> None:
    samples = [Sample(float(i), 1, i) for i in range(1001)]
    thin = memory.thin(samples, 100)
    assert len(thin) <= 100
    assert thin[-1] is samples[-1]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_annotate_writes_the_promised_figures(tmp_path: Path) -> None:
    out = str(tmp_path / "annotate.json")
    words = ["--images", "2", "--rounds", "1", "--size", "64", "--no-default", "--out", out, QUICK]
    record, printed = run(annotate.main, *words)
    assert record["ratio"] == pytest.approx(record["ratio_by_round"][0])
    assert record["ratio"] > 0
    assert record["ratio_default"] is None
    assert record["ways"].keys() == {annotate.BARE, annotate.ONE}
    for way in record["ways"].values():
        assert way["images_labelled"] == [2]
        assert 0 < way["seconds"][0] <= way["seconds_wall"][0]
        assert 0 <= way["labels_equal_to_bare_loop"][0] <= 1
    assert "one worker a model" in printed


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_memory_writes_the_promised_figures(tmp_path: Path) -> None:
    out = str(tmp_path / "memory.json")
    record, printed = run(memory.main, "--images", "3", "--out", out)
    assert record["rows"] == record["images"] == 3
    assert record["rss_mib_peak"] >= record["rss_mib_at_end"] > 20
    assert record["ratio"] == pytest.approx(record["rss_mib_at_end"] / record["rss_mib_at_10_percent"])
    assert len(record["curve"]) <= 100
    assert "RSS" in printed
