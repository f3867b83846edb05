"""Features and pooling beyond GEM and the mean: through the stages, and end to end through Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from segray.models.clip.gem import dense_features
from segray.models.clip.model import build_clip, preprocess
from segray.models.clip.tiled import label_tiles
from segray.models.clip.vision import open_proxy
from segray.models.clip.zero_shot import classify_segments, dense_labels, pool_segments, vote
from segray.models.label_map import covered_pixels, render_label_map
from segray.models.label_space import IGNORE_INDEX, label_space
from segray.models.masks import segment_from_mask, unpack
from segray.models.tiling import Tiling
from segray.pipelines.annotation.stages.classify import ClassifySegments, TextEmbeddings
from segray.pipelines.annotation.stages.encode import EncodeLabels
from segray.pipelines.annotation.stages.features import clip_features, tile_features
from segray.pipelines.annotation.stages.schemas import classes_from_bytes, pixels_of
from segray.pipelines.annotation.stages.segment import SegmentImages
from segray.pipelines.commands import annotate, plan, relabel, report
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.annotate import AnnotateConfig, ClipConfig, SamConfig
from segray.pipelines.config.commands.calibrate import CalibrateConfig
from segray.pipelines.config.commands.plan import PlanConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.report import ReportConfig
from segray.pipelines.config.loading import load
from segray.pipelines.config.received import may_be_received
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import decode_gray_png
from tests.models.clip.test_windowed import TOWER, save_tower
from tests.models.clip.tiny_tips import save_tips
from tests.pipelines.annotation.ray_runs import label_and_resume
from tests.pipelines.annotation.reading import GUARD, reading
from tests.pipelines.plain_runs import PLAN, config_of, draw_scenes, label_plainly, manifest_table

SPACE = label_space("picture_book")
NO_PIXELS = (
    "clip.refine has no effect without labels of pixels; leave it out, or set sam.model=none, "
    "label.pool=vote or label.unsegmented=pixels"
)
SAM = SamConfig(model="builtin", points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    images = draw_scenes(tmp_path_factory.mktemp("features") / "images", 2)
    return SegmentImages(SAM, PLAN, GUARD)(reading()(manifest_table(images)))


def text_of(threshold: float = 0.0, *, vote: bool = False, unsegmented: bool = False) -> TextEmbeddings:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(11, 64)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return TextEmbeddings(embeddings, np.array([0, 0, *range(1, 10)]), 50.0, threshold, vote, unsegmented)


def test_a_vote_gives_the_class_that_most_pixels_have(segmented: pa.Table) -> None:
    config, text = ClipConfig(model="builtin"), text_of(-1, vote=True)
    clip, classifier = build_clip("builtin"), text.to_classifier()
    differ = 0
    for row in ClassifySegments(config, text, True, PLAN, GUARD)(segmented).to_pylist():
        before = next(r for r in segmented.to_pylist() if r["image_id"] == row["image_id"])
        segments, shape = unpack(row["packed_segments"]), (row["height"], row["width"])
        grid = clip_features(clip, config, [pixels_of(before)])[0]
        best = dense_labels(grid, classifier, *shape, -1.0).label
        found = classes_from_bytes(row["classes"])
        mean = classify_segments(pool_segments(grid, segments, *shape).half().float(), classifier, -1.0)
        for k, segment in enumerate(segments):
            x, y, w, h = segment.box
            ids, counts = np.unique(best[y : y + h, x : x + w][segment.mask], return_counts=True)
            assert found.class_id[k] == ids[counts.argmax()]
            agree = found.class_id[k] == mean.class_id[k]
            differ += not agree
            assert (found.margin[k] > 0) == agree
            assert found.score[k] == mean.score[k] or not agree
            assert found.score[k] <= mean.score[k]
    assert differ


def test_pixels_in_no_segment_keep_their_own_class(segmented: pa.Table) -> None:
    """Those in a segment without a class do not: they stay background, as without the option."""
    config, text = ClipConfig(model="builtin"), text_of(0.05, unsegmented=True)
    classified = ClassifySegments(config, text, True, PLAN, GUARD)(segmented)
    plain = ClassifySegments(config, text_of(0.05), True, PLAN, GUARD)(segmented)
    assert classified["classes"] == plain["classes"]
    for row, encoded in zip(
        classified.to_pylist(), EncodeLabels(SPACE, GUARD)(classified).to_pylist(), strict=True
    ):
        segments, classes = unpack(row["packed_segments"]), classes_from_bytes(row["classes"])
        shape = (row["height"], row["width"])
        dense, confidence = (np.frombuffer(row[k], np.uint8).reshape(shape) for k in ("label", "confidence"))
        label, levels = render_label_map(segments, classes, *shape, IGNORE_INDEX)
        inside = covered_pixels(segments, np.ones(len(segments), bool), *shape)
        assert not inside.all()
        found = decode_gray_png(encoded["label"])
        assert np.array_equal(found, np.where(inside, label, dense))
        assert (found[~inside] > 0).any()
        assert np.array_equal(decode_gray_png(encoded["confidence"]), np.where(inside, levels, confidence))
        shown = np.where(inside, covered_pixels(segments, classes.has_class, *shape), confidence > 0)
        assert encoded["labelled_fraction"] == pytest.approx(shown.mean())


def test_a_vote_and_the_pixels_in_no_segment_are_of_one_map(
    segmented: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, maps = ClipConfig(model="builtin"), list[tuple[int, int]]()

    def counted(tiles: object, classifier: object, size: tuple[int, int], *others: object) -> object:
        maps.append(size)
        return label_tiles(tiles, classifier, size, *others)  # type: ignore[arg-type]

    voted, dense = (
        ClassifySegments(config, text_of(0.05, vote=v, unsegmented=not v), True, PLAN, GUARD)(segmented)
        for v in (True, False)
    )
    monkeypatch.setattr("segray.models.clip.tiled.label_tiles", counted)
    both = ClassifySegments(config, text_of(0.05, vote=True, unsegmented=True), True, PLAN, GUARD)(segmented)
    assert len(maps) == segmented.num_rows
    assert both["classes"] == voted["classes"] != dense["classes"]
    assert both["label"] == dense["label"] != voted["label"]
    assert both["confidence"] == dense["confidence"]


@pytest.mark.parametrize("side", [None, 64])
def test_pixels_follow_the_edges_of_their_image(segmented: pa.Table, side: int | None) -> None:
    """With tiles, of which each has a part of the image; by a vote, the segments, too."""
    tiling = Tiling(side, 0.25) if side else None
    config = ClipConfig(model="builtin")
    clip, classifier = build_clip("builtin"), text_of().to_classifier()

    def stage(text: TextEmbeddings) -> pa.Table:
        return ClassifySegments(config, text, True, PLAN, GUARD, tiling=tiling)(segmented)

    unrefined = text_of(0.05, unsegmented=True)
    refined, coarse = (stage(replace(unrefined, refine=steps)) for steps in (3, 0))
    assert refined["classes"] == coarse["classes"]
    for before, row, other in zip(
        segmented.to_pylist(), refined.to_pylist(), coarse.to_pylist(), strict=True
    ):
        image, size = pixels_of(before), (row["height"], row["width"])
        (tiles,) = tile_features(clip, config, tiling, [image], None, [size])
        assert (len(tiles) > 1) == bool(side)
        expected = label_tiles(tiles, classifier, size, 0.05, image, 3)
        assert row["label"] == expected.label.tobytes() != other["label"]
        assert row["confidence"] == expected.confidence.tobytes()
    voted = [stage(replace(text_of(0.05, vote=True), refine=steps))["classes"] for steps in (3, 0)]
    assert voted[0] != voted[1]


def test_edges_take_more_of_a_large_jpeg_than_clip_does(tmp_path: Path) -> None:
    words = ("sam.model=none", "image.reduce_jpeg=true")
    size = build_clip("builtin").image_size
    for more, kept in (("clip.refine=0", size), ("clip.refine=1", 1024)):
        config = config_of(tmp_path, tmp_path / "x", *words, more)
        prepared = annotate.prepare(config, SPACE)
        assert prepared.options.jpeg_size == (kept, size)
        assert prepared.text is not None
        assert prepared.text.refine == config.clip.refine


def test_a_tie_goes_to_the_lower_id() -> None:
    best = np.array([[3, 3, 1, 1], [9, 9, 9, 2]], np.uint8)
    masks = [np.array([[1, 1, 1, 1], [0, 0, 0, 0]], bool), np.array([[0, 0, 0, 1], [0, 1, 1, 1]], bool)]
    assert vote([segment_from_mask(mask) for mask in masks], best).tolist() == [1, 9]


def test_gem_is_the_default_and_has_the_bits_that_it_had(segmented: pa.Table) -> None:
    clip, config = build_clip("builtin"), ClipConfig(model="builtin")
    images = [pixels_of(row) for row in segmented.to_pylist()]
    grids = clip_features(clip, config, images, [unpack(r["packed_segments"]) for r in segmented.to_pylist()])
    size, depth = clip.image_size, clip.depth
    for grid, image in zip(grids, images, strict=True):
        batch = preprocess([image], size, clip.mean, clip.std)
        with torch.inference_mode():
            assert torch.equal(grid, dense_features(clip.model.visual, batch, depth=depth)[0])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("clip.proxy=sam", "clip: proxy has no effect with features=gem; leave it out"),
        ("clip.features=corr clip.depth=3", "clip: depth has no effect with features=corr; leave it out"),
        (
            "sam.model=none label.pool=vote",
            "label.pool has no effect with sam.model=none; leave it out",
        ),
        ("clip.refine=10", NO_PIXELS),
    ],
)
def test_options_without_an_effect_are_refused(words: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        config_of(tmp_path, tmp_path / "x", *words.split())
    assert str(refused.value) == line


def test_sam_stands_for_the_model_that_finds_the_segments() -> None:
    words = ["images=a", "out=b", "classes=cat", "clip.features=proxy", "clip.proxy=sam"]
    clip = load(AnnotateConfig, None, [*words, "sam.model=vit_l", "sam.weights=l.pth"]).clip
    assert (clip.proxy, clip.proxy_weights) == ("vit_l", "l.pth")
    assert load(AnnotateConfig, None, words[:4]).clip.proxy == "vit_base_patch8_224.dino"


def test_a_received_label_set_does_not_name_a_file_of_weights() -> None:
    assert not may_be_received("clip.proxy_weights", "weights.pth")
    assert not may_be_received("clip.proxy_weights", "hf-hub:evil/tower")
    assert may_be_received("clip.proxy_weights", None)


def test_tipsv2_comes_with_its_model_and_its_templates() -> None:
    words = ["images=a", "out=b", "classes=cat"]
    for word in ("clip.features=tipsv2", "clip.model=tipsv2_l14"):
        config = load(AnnotateConfig, None, [*words, word])
        assert config.clip.features == config.label.templates == "tipsv2"
        assert config.clip.model == ("tipsv2_l14" if "l14" in word else "tipsv2_b14")


def test_the_vision_model_is_recorded_and_compared(tmp_path: Path) -> None:
    images = draw_scenes(tmp_path / "images", 1)
    words = ("clip.features=proxy", "clip.image_size=64", f"clip.proxy={TOWER}")
    first, second = (str(save_tower(tmp_path / f"{seed}.safetensors", seed=seed)) for seed in (0, 1))
    prepared = label_plainly(config_of(images, tmp_path / "out", *words, f"clip.proxy_weights={first}"), [1])
    proxy = prepared.provenance["clip"]["proxy"]
    assert proxy["model"] == TOWER
    assert len(proxy["sha256"]) == 64
    Path(first).write_bytes(Path(second).read_bytes())
    with pytest.raises(UserError, match=r"clip\.proxy weights sha256: '.*' -> '.*'"):
        annotate.run(config_of(images, tmp_path / "out", *words, f"clip.proxy_weights={first}"))


@pytest.mark.parametrize(
    ("stored", "words", "reason"),
    [
        (
            "label.pool=vote",
            "",
            r"was made with label\.pool=vote, .*; label\.pool=mean relabels its segments",
        ),
        (
            "label.unsegmented=pixels label.pool=vote",
            "",
            r"; label\.pool=mean label\.unsegmented=background relabels its segments alone$",
        ),
        ("label.unsegmented=pixels", "", r"label\.unsegmented=background relabels its segments alone"),
        ("", "label.pool=vote", r"^label\.pool=vote needs the features of pixels, which no label set holds"),
        ("label.pool=vote", "label.pool=mean", None),
    ],
)
def test_relabel_says_why_it_cannot(
    stored: str, words: str, reason: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = draw_scenes(tmp_path / "images", 1), tmp_path / "out"
    label_plainly(config_of(images, out, *stored.split()), [1])
    keys = [f"labels={out}", f"out={tmp_path / 'new'}", "classes=tree,sun", *words.split()]
    if reason is None:
        relabel.run(load(RelabelConfig, None, keys))
        assert verify(str(tmp_path / "new")).problems == []
        return
    with pytest.raises(UserError, match=reason) as refused:
        relabel.run(load(RelabelConfig, None, keys))
    assert "\n" not in str(refused.value)


def test_calibrate_says_why_it_cannot(tmp_path: Path) -> None:
    from segray.pipelines.commands import calibrate

    images, out = draw_scenes(tmp_path / "images", 1), tmp_path / "out"
    label_plainly(config_of(images, out, "label.unsegmented=pixels"), [1])
    keys = [f"labels={out}", f"masks={images}", f"out={tmp_path / 'new'}"]
    with pytest.raises(
        UserError, match=r"was made with label\.unsegmented=pixels: a calibration names segments"
    ):
        calibrate.run(load(CalibrateConfig, None, keys))


def test_tiles_and_reduced_copies_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^image\.reduce_jpeg removes the detail that image\.tile is for"):
        config_of(tmp_path, tmp_path / "x", "image.tile=64", "image.reduce_jpeg=true")


def test_a_tile_sees_its_own_part_of_the_image_and_of_the_segments(tmp_path: Path) -> None:
    """The regions of `corr` are those of the tile: as if the tile were an image with these segments."""
    tower = open_proxy(TOWER, str(save_tower(tmp_path / "tower.safetensors")))
    clip, config = replace(build_clip("builtin"), proxy=tower), ClipConfig(features="corr", image_size=64)
    image = np.random.default_rng(0).integers(0, 256, (64, 150, 3), np.uint8)
    mask = np.zeros((64, 150), bool)
    mask[10:50, 40:110] = True
    (found,) = tile_features(
        clip, config, Tiling(64, 0.25), [image], [[segment_from_mask(mask)]], [(64, 150)]
    )
    assert len(found) == 3
    for one in found:
        x, y, w, h = one.tile.box
        crop = np.ascontiguousarray(image[y : y + h, x : x + w])
        part = [segment_from_mask(mask[y : y + h, x : x + w])]
        (alone,) = clip_features(clip, config, [crop], [part])
        assert torch.equal(one.grid, alone)


def words_of(features: str, folder: Path) -> list[str]:
    """A quick run with these features: two vision models of other kinds, and another CLIP."""
    if features == "tipsv2":
        weights = save_tips(folder, seed=1)
        return ["clip.model=tipsv2_b14", f"clip.weights={weights}", "clip.image_size=56"]
    words = [f"clip.features={features}", "clip.image_size=64"]
    if features == "proxy":
        return [*words, "clip.proxy=sam"]
    tower = save_tower(folder / "tower.safetensors")
    return [*words, f"clip.proxy={TOWER}", f"clip.proxy_weights={tower}"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("features", ["corr", "proxy", "tipsv2"])
def test_features_from_images_to_report(
    features: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = draw_scenes(tmp_path / "images", 6), tmp_path / "labels"
    words = [*words_of(features, tmp_path), "rows_per_part=2"]
    words += ["label.pool=vote", "label.unsegmented=pixels", "image.tile=64"] if features == "corr" else []
    config = config_of(images, out, *words, "sam.workers=1", "clip.workers=1")
    store = label_and_resume(config)
    assert store.provenance["clip"]["features"] == features
    assert len(list(store.rows())) == 6
    keys = [f"labels={out}", f"out={tmp_path / 'new'}", "classes=tree,sun"]
    keys += ["label.pool=mean", "label.unsegmented=background"] if features == "corr" else []
    keys += [word for word in words if word.startswith("clip.weights")]
    relabel.run(load(RelabelConfig, None, keys))
    assert verify(str(tmp_path / "new")).problems == []
    report.run(load(ReportConfig, None, [f"out={out}"]))
    page = (out / "report.html").read_text()
    assert features in page
    capsys.readouterr()
    plan.run(load(PlanConfig, None, [f"images={images}", "classes=picture_book", *words, "probe=2"]))
    assert "clip" in capsys.readouterr().out
