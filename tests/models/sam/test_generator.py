from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.amg import remove_small_regions as upstream_remove_small_regions

from segray.models.builtin.arch import build_builtin_sam
from segray.models.masks import full_mask, pack, segment_from_mask
from segray.models.sam.generator import SAM_MODELS, MaskGenerator, build_sam
from segray.models.sam.postprocess import clean
from segray.pipelines.scenes.picture_book import draw_scene
from tests.models.sam.pictures import TINY_ARCH, scene
from tests.models.sam.upstream_masks import assert_same, reference_sam

# Thresholds at which the reference model, far weaker than a real SAM, keeps some masks and drops others.
OPTIONS: dict[str, Any] = {"pred_iou_thresh": 0.36, "stability_score_thresh": 0.65, "points_per_side": 6}


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, NDArray[Any]]:
    with np.load(golden / "sam.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def sam(reference: dict[str, NDArray[Any]]) -> Sam:
    prefix = "sd/"
    state = {
        k.removeprefix(prefix): torch.from_numpy(v) for k, v in reference.items() if k.startswith(prefix)
    }
    return reference_sam(state)


WAYS = pytest.mark.parametrize("pipelined", [False, True], ids=["one by one", "as on a GPU"])


@WAYS
@pytest.mark.parametrize("case", [0, 1, 2])
def test_stored_upstream_masks(
    reference: dict[str, NDArray[Any]], sam: Sam, case: int, pipelined: bool
) -> None:
    options = json.loads(str(reference["meta"]))["cases"][case]["options"]
    image = reference[f"{case}/image"]
    del options["points_per_batch"]
    generator = MaskGenerator(sam, **options, pipelined=pipelined)
    (segments,) = generator.generate([image])
    names = {"bbox": "bbox", "area": "area", "predicted_iou": "predicted_iou", "crop_box": "crop_box"}
    names |= {"stability_score": "stability_score", "point_coords": "point"}
    stored = {name: reference[f"{case}/{key}"].tolist() for name, key in names.items()}
    stored["point_coords"] = [[point] for point in stored["point_coords"]]
    packed = reference[f"{case}/masks"]
    stored["segmentation"] = list(np.unpackbits(packed, axis=-1, count=image.shape[1]).astype(bool))
    records = [dict(zip(stored, values, strict=True)) for values in zip(*stored.values(), strict=True)]
    assert len(records) > 10
    assert_same(segments, records, (sam, image))


@WAYS
@pytest.mark.parametrize(
    ("size", "options", "at_least"),
    [
        ((300, 200), {}, 3),
        ((200, 300), {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.4}, 10),
        ((24, 31), {}, 1),
        ((3, 200), {}, 0),
        ((512, 370), {}, 3),
        ((256, 256), {"box_nms_thresh": 0.4, "stability_score_offset": 0.5}, 3),
        ((301, 199), {"crop_n_layers": 1, "crop_nms_thresh": 0.5, "points_per_side": 5}, 5),
        ((90, 160), {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_overlap_ratio": 0.5}, 1),
        ((120, 160), {"pred_iou_thresh": 0.99}, 0),
    ],
)
def test_upstream_generator(
    sam: Sam, size: tuple[int, int], options: dict[str, Any], at_least: int, pipelined: bool
) -> None:
    image = scene(*size)
    records = SamAutomaticMaskGenerator(sam, **{**OPTIONS, **options}).generate(image)
    assert len(records) >= at_least
    (segments,) = MaskGenerator(sam, **{**OPTIONS, **options}, pipelined=pipelined).generate([image])
    assert_same(segments, records, (sam, image))


DOZEN = [(seed, size) for seed in range(4) for size in ((256, 256), (200, 320), (321, 180))]


@pytest.mark.parametrize(("seed", "size"), DOZEN)
def test_built_in_weights_find_upstreams_masks(seed: int, size: tuple[int, int]) -> None:
    sam, _ = build_sam("builtin")
    book = draw_scene(seed, 0, max(size)).image[: size[0], : size[1]]
    entry = SAM_MODELS["builtin"]
    options: dict[str, Any] = {
        "points_per_side": 8,
        "pred_iou_thresh": entry.pred_iou_thresh,
        "stability_score_thresh": entry.stability_score_thresh,
    }
    image = np.ascontiguousarray(book)
    records = SamAutomaticMaskGenerator(sam, **options).generate(image)
    assert records
    for pipelined in (False, True):
        (segments,) = MaskGenerator(sam, **options, pipelined=pipelined).generate([image])
        assert_same(segments, records, (sam, image))


@pytest.mark.parametrize("options", [{}, {"crop_n_layers": 1, "crop_nms_thresh": 0.95}])
@pytest.mark.parametrize("min_area", [40, 4000])
def test_upstream_small_regions(sam: Sam, min_area: int, options: dict[str, Any]) -> None:
    pytest.importorskip("cv2")
    options = {**OPTIONS, "points_per_side": 5, "stability_score_thresh": 0.4, **options}
    options["min_mask_region_area"] = min_area
    image = scene(150, 110, seed=3)
    records = SamAutomaticMaskGenerator(sam, **options).generate(image)
    plain = MaskGenerator(sam, **{**options, "min_mask_region_area": 0}).generate([image])[0]
    (segments,) = MaskGenerator(sam, **options).generate([image])
    assert_same(segments, records)
    assert {s.area for s in segments} != {s.area for s in plain}


def test_clean_equals_opencv() -> None:
    pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 24, 2)
        mask = rng.random((height, width)) < rng.uniform(0.05, 0.95)
        mask.flat[rng.integers(mask.size)] = True
        min_area = int(rng.integers(1, 12))
        filled, holes = upstream_remove_small_regions(mask, min_area, mode="holes")
        expected, islands = upstream_remove_small_regions(filled, min_area, mode="islands")
        cleaned, changed = clean(mask, min_area)
        assert np.array_equal(cleaned, expected)
        assert changed == (holes or islands)


def test_clean_by_hand() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1:7, 1:7] = True
    mask[3, 3] = False
    mask[8, 8] = True
    cleaned, changed = clean(mask, 2)
    assert changed
    assert segment_from_mask(cleaned).box == (1, 1, 6, 6)
    assert cleaned.sum() == 36
    assert not clean(cleaned, 2)[1]


@WAYS
def test_no_mask_at_all_is_no_error_with_crops(sam: Sam, pipelined: bool) -> None:
    options = {
        **OPTIONS,
        "pred_iou_thresh": 0.99,
        "crop_n_layers": 1,
        "min_mask_region_area": 9,
        "points_per_side": 2,
    }
    assert MaskGenerator(sam, **options, pipelined=pipelined).generate([scene(60, 80)]) == [[]]


@WAYS
def test_images_of_a_batch_do_not_touch_each_other(sam: Sam, pipelined: bool) -> None:
    images = [scene(120, 90, 1), scene(64, 200, 2), scene(120, 90, 3)]
    generator = MaskGenerator(sam, **OPTIONS, pipelined=pipelined)
    together = generator.generate(images)
    for image, segments in zip(images, together, strict=True):
        (alone,) = generator.generate([image])
        assert len(alone) == len(segments) > 0
        for a, b in zip(alone, segments, strict=True):
            assert (a.box, a.predicted_iou, a.stability_score) == (b.box, b.predicted_iou, b.stability_score)
            assert np.array_equal(a.mask, b.mask)
    assert generator.generate([]) == []


@WAYS
def test_images_too_thin_for_upstream_are_segmented_too(sam: Sam, pipelined: bool) -> None:
    loose: dict[str, Any] = {
        "pred_iou_thresh": 0,
        "stability_score_thresh": 0,
        "crop_n_layers": 1,
        "points_per_side": 3,
    }
    generator = MaskGenerator(sam, **loose, pipelined=pipelined)
    n_segments = 0
    for size in ((1, 1000), (1000, 1), (1, 1)):
        (segments,) = generator.generate([scene(*size)])
        for segment in segments:
            assert segment.area == full_mask(segment, *size).sum() > 0
        n_segments += len(segments)
    assert n_segments


@WAYS
def test_masks_without_pixels_are_left_out(sam: Sam, pipelined: bool) -> None:
    options = {**OPTIONS, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_side": 4}
    image = scene(150, 200)
    try:
        sam.mask_threshold = 3.0
        records = SamAutomaticMaskGenerator(sam, **options).generate(image)
        (segments,) = MaskGenerator(sam, **options, pipelined=pipelined).generate([image])
    finally:
        del sam.mask_threshold
    full = [record for record in records if record["area"]]
    assert 0 < len(full) < len(records)
    assert_same(segments, full)


def test_a_small_copy_has_the_whole_images_segments(sam: Sam) -> None:
    whole = scene(64, 90)
    generator = MaskGenerator(sam, points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0)
    (expected,) = generator.generate([whole])
    (same,) = generator.generate([whole], [(64, 90)])
    assert [pack([a]) for a in same] == [pack([b]) for b in expected]
    (segments,) = generator.generate([np.array(Image.fromarray(whole).reduce(2))], [(64, 90)])
    assert segments
    assert all(s.box[0] + s.box[2] <= 90 and s.box[1] + s.box[3] <= 64 for s in segments)
    assert max(s.box[1] + s.box[3] for s in segments) > 32
    with pytest.raises(ValueError, match="crops need the original image"):
        MaskGenerator(sam, points_per_side=4, crop_n_layers=1).generate([whole[::2, ::2]], [(64, 90)])


def test_only_uint8_rgb_is_taken() -> None:
    generator = MaskGenerator(build_builtin_sam(TINY_ARCH))
    good = np.zeros((16, 16, 3), np.uint8)
    bad: list[tuple[Any, str]] = [
        (good.astype(np.float32), r"image 1: expected uint8 \[H, W, 3\] RGB, got float32 \[16, 16, 3\]"),
        (np.zeros((16, 16, 4), np.uint8), r"got uint8 \[16, 16, 4\]"),
        (np.zeros((16, 16), np.uint8), r"got uint8 \[16, 16\]"),
        (good.astype(np.uint16), r"got uint16 \[16, 16, 3\]"),
        (torch.zeros(16, 16, 3, dtype=torch.uint8), r"got torch.uint8 \[16, 16, 3\]"),
        ("image.jpg", "got str"),
        (np.zeros((0, 16, 3), np.uint8), r"image 1 has no pixels: \[0, 16, 3\]"),
    ]
    for image, message in bad:
        with pytest.raises(ValueError, match=message):
            generator.generate([good, image])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": 0}, "points_per_side is 0, must be at least 1"),
        ({"points_per_batch": -1}, "points_per_batch is -1"),
        ({"crop_n_layers": -1}, "crop_n_layers is -1, must be at least 0"),
        (
            {"points_per_side": 3, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
            "is 0, must be at least 1",
        ),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskGenerator(build_builtin_sam(TINY_ARCH), **options)
