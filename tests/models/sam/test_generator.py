from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segment_anything
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.amg import remove_small_regions as upstream_remove_small_regions
from torch import Tensor

from segray.models import weights
from segray.models.builtin.arch import SAM_ARCH, build_builtin_sam
from segray.models.masks import full_mask, pack, segment_from_mask
from segray.models.sam.generator import SAM_MODELS, MaskGenerator, build_sam
from segray.models.sam.postprocess import clean
from segray.models.sam.registry import check_sam
from segray.models.weights import WeightsError
from segray.pipelines.scenes.picture_book import draw_scene
from tests.models.sam.upstream_masks import assert_same, reference_sam

Rgb = NDArray[np.uint8]
# Thresholds at which the reference model, far weaker than a real SAM, keeps some masks and drops others.
OPTIONS: dict[str, Any] = {"pred_iou_thresh": 0.36, "stability_score_thresh": 0.65, "points_per_side": 6}
TINY_ARCH = SAM_ARCH | {
    "img_size": 64,
    "width": 32,
    "depth": 2,
    "window": 4,
    "prompt_dim": 32,
    "decoder_mlp": 32,
}


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


def scene(height: int, width: int, seed: int = 0) -> Rgb:
    """Ellipses on a gradient, what the reference model was trained on."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    image = np.stack([80 + 60 * x, 90 + 50 * y, 120 - 40 * x], -1)
    for _ in range(9):
        cx, cy, rx, ry = *rng.uniform(0.1, 0.9, 2), *rng.uniform(0.05, 0.25, 2)
        image[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = rng.uniform(0, 255, 3)
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


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


def save_builtin(path: Path, arch: dict[str, int] | None) -> Sam:
    torch.manual_seed(0)
    sam = build_builtin_sam(arch or SAM_ARCH)
    halves = {key: value.half().contiguous() for key, value in sam.state_dict().items()}
    save_file(halves, path, {"segray": json.dumps({"arch": arch})} if arch else None)
    return sam


@pytest.mark.parametrize("arch", [SAM_ARCH, TINY_ARCH, None])
def test_built_in_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: dict[str, int] | None
) -> None:
    saved = save_builtin(tmp_path / "sam.safetensors", arch)
    monkeypatch.setattr(weights, "BUILTIN_FOLDER", tmp_path)
    sam, checkpoint = build_sam("builtin")
    assert checkpoint.path.parent == tmp_path
    assert not sam.training
    assert sam.image_encoder.img_size == (arch or SAM_ARCH)["img_size"]
    for key, value in sam.state_dict().items():
        assert torch.equal(value, saved.state_dict()[key].half().float())
    entry = SAM_MODELS["builtin"]
    generator = MaskGenerator(sam, points_per_side=entry.points_per_side // 4)
    assert len(generator.generate([scene(40, 50)])) == 1


BUILDERS = pytest.mark.parametrize("build", [build_sam, check_sam])


@BUILDERS
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("mask_decoder.iou_token.weight"), "missing: mask_decoder.iou_token.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected: extra"),
        (
            lambda s: s.update({"image_encoder.pos_embed": torch.zeros(2, 3)}),
            r"wrong shapes: image_encoder.pos_embed is \(2, 3\), expected",
        ),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, build: Callable[..., object], change: Callable[[dict[str, Tensor]], object], text: str
) -> None:
    path = tmp_path / "sam.safetensors"
    state = save_builtin(path, TINY_ARCH).state_dict()
    change(state)
    save_file(state, path, {"segray": json.dumps({"arch": TINY_ARCH})})
    with pytest.raises(WeightsError, match=f"sam.safetensors does not fit the model builtin: {text}"):
        build("builtin", str(path))


@BUILDERS
def test_a_damaged_file(tmp_path: Path, build: Callable[..., object]) -> None:
    path = tmp_path / "sam.safetensors"
    save_builtin(path, TINY_ARCH)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"sam\.safetensors is damaged"):
        build("builtin", str(path))


def test_checked_weights_are_those_that_are_built(tmp_path: Path) -> None:
    path = tmp_path / "sam.safetensors"
    save_builtin(path, TINY_ARCH)
    sam, checkpoint = build_sam("builtin", str(path))
    assert check_sam("builtin", str(path)) == (sam.image_encoder.img_size, checkpoint)


@BUILDERS
def test_a_wrong_architecture_in_the_metadata(tmp_path: Path, build: Callable[..., object]) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"segray": json.dumps({"arch": {"width": 3}})})
    with pytest.raises(WeightsError, match=r"'arch' must have whole numbers for img_size, patch_size"):
        build("builtin", str(path))


@BUILDERS
def test_an_unknown_model_lists_the_known_ones(build: Callable[..., object]) -> None:
    message = "unknown SAM model 'vit_x'; choose one of vit_b, vit_l, vit_h, builtin"
    with pytest.raises(ValueError, match=message):
        build("vit_x")


def test_official_weights_are_pinned_and_have_upstream_builders() -> None:
    for name in ("vit_b", "vit_l", "vit_h"):
        entry = SAM_MODELS[name]
        assert entry.url.startswith("https://dl.fbaipublicfiles.com/segment_anything/sam_" + name)
        assert entry.sha256 is not None
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert name in segment_anything.sam_model_registry


@pytest.mark.slow
def test_an_official_checkpoint_file_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = segment_anything.build_sam_vit_b().state_dict()
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(state, path)
    sam, checkpoint = build_sam("vit_b", str(path))
    assert checkpoint.path == path
    assert sam.image_encoder.img_size == 1024
    assert all(torch.equal(value, state[key]) for key, value in sam.state_dict().items())
    assert check_sam("vit_b", str(path)) == (1024, checkpoint)
    with pytest.raises(WeightsError, match=r"builtin: .*image_encoder.pos_embed is \(1, 64, 64, 768\)"):
        build_sam("builtin", str(path))
    with pytest.raises(WeightsError, match=f"expected {SAM_MODELS['vit_b'].sha256}"):
        build_sam("vit_b", str(path), sha256=SAM_MODELS["vit_b"].sha256)


def test_offline_the_default_weights_name_both_ways_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", unreachable)
    monkeypatch.setenv("SEGRAY_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as error:
        build_sam("vit_b")
    url = SAM_MODELS["vit_b"].url
    assert str(error.value) == (
        f"no weights for sam.model: cannot download {url}: Network is unreachable; fetch the files elsewhere "
        "and give their local paths, sam.weights=FILE clip.weights=FILE (see docs/real-models.md), or try "
        "segray offline with sam.model=builtin clip.model=builtin"
    )
    assert caplog.messages[0].startswith(f"downloading {url} to {tmp_path}")
