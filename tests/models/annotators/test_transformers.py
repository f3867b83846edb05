"""SAM 2.1 and EoMT on tiny random weights: their masks by the formulas, their grid, their weights."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torchvision.ops import batched_nms
from torchvision.transforms import Compose, Normalize, Resize, ToTensor
from transformers import (
    EomtConfig,
    EomtForUniversalSegmentation,
    Sam2Config,
    Sam2Model,
    SamHQConfig,
    SamHQModel,
)
from transformers.models.eomt.image_processing_eomt import EomtImageProcessor

from segray.models.annotators import eomt, sam2, sam_hq
from segray.models.annotators.loading import check_model, open_model
from segray.models.annotators.registry import MASK_MODELS, label_entry, mask_entry
from segray.models.annotators.transformers_weights import square
from segray.models.masks import full_mask
from segray.models.sam.geometry import Frame, Rgb, frame, upsample
from segray.models.segmenters.base import IMAGENET_MEAN, IMAGENET_STD
from segray.models.weights import Checkpoint, WeightsError, load_state_dict, resolve
from segray.pipelines.annotation.stages.segment import check_sam_options, mask_options
from segray.pipelines.config.commands.annotate import SamConfig
from segray.pipelines.scenes.picture_book import draw_scene
from tests.models.annotators.tiny import EOMT, TINY, tiny_network, write_weights

MASKS = {"points_per_side": 6, "pred_iou_thresh": 0.1, "stability_score_thresh": 0.01}


def scene(height: int, width: int) -> Rgb:
    return np.ascontiguousarray(draw_scene(0, 3, max(height, width)).image[:height, :width])


def source(name: str, **keys: Any) -> Any:
    config = SamConfig(model=name, **keys)
    check_sam_options(config)
    family: Any = MASK_MODELS[name].open_family()
    return family(tiny_network(name)).source("cpu", mask_options(config))


# The boxes of random SAM-HQ's masks are all the same: they are kept all the same.
@pytest.mark.parametrize(("name", "nms"), [("sam2.1_hiera_tiny", 0.7), ("sam_hq_vit_b", 1.0)])
@pytest.mark.parametrize("size", [(96, 96), (72, 128), (128, 72)])
def test_the_masks_follow_the_generator(name: str, nms: float, size: tuple[int, int]) -> None:
    """Each step in full, on all pixels: the reference for what decides on few of them."""
    image, (height, width) = scene(*size), size
    found = source(name, **MASKS, box_nms_thresh=nms).generate([image])[0]
    network = tiny_network(name)
    # SAM 2 stretches the image to the square, SAM-HQ fills it with the long side.
    f = Frame(height, width, 128, 128, 128) if "sam2" in name else frame(height, width, 128)
    places = (torch.arange(6) + 0.5) / 6
    grid = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1).reshape(1, -1, 1, 2)
    with torch.inference_mode():
        output = network(
            pixel_values=_pixels(name, image, f),
            input_points=grid * torch.tensor([f.input_width, f.input_height]),
            input_labels=torch.ones(1, 36, 1, dtype=torch.int64),
            multimask_output=True,
        )
    logits, iou = output.pred_masks[0].flatten(0, 1), output.iou_scores[0].flatten()
    points = grid[0, :, 0].repeat_interleave(3, 0) * torch.tensor([width, height])
    keep = iou > 0.1
    full = upsample(logits[keep], f)
    if "sam2" in name:
        full = F.interpolate(logits[keep][None], size, mode="bilinear", align_corners=False)[0]
    iou, points = iou[keep], points[keep]
    stability = (full > 1).sum((1, 2)) / (full > -1).sum((1, 2))
    keep = (stability >= 0.01) & (full > 0).any(2).any(1)
    masks, iou, points, stability = full[keep] > 0, iou[keep], points[keep], stability[keep]
    boxes = torch.stack([_inclusive(mask) for mask in masks])
    order = batched_nms(boxes.float(), iou, torch.zeros(len(iou)), nms)
    assert len(order) > 1
    assert len(found) == len(order)
    for segment, k in zip(found, order.tolist(), strict=True):
        np.testing.assert_array_equal(full_mask(segment, height, width), masks[k].numpy())
        assert segment.predicted_iou == pytest.approx(float(iou[k]), abs=1e-5)
        assert segment.stability_score == pytest.approx(float(stability[k]), abs=1e-4)
        assert segment.point == pytest.approx(points[k].tolist(), abs=1e-3)


def _pixels(name: str, image: Rgb, f: Frame) -> torch.Tensor:
    if "sam2" not in name:
        return square(image, (f.input_height, f.input_width), 128)
    steps = [ToTensor(), Resize((128, 128), antialias=True), Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return Compose(steps)(image)[None]


def _inclusive(mask: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.nonzero(mask.any(1))[:, 0], torch.nonzero(mask.any(0))[:, 0]
    return torch.stack([columns[0], rows[0], columns[-1], rows[-1]])


def test_reduced_copies_give_segments_of_the_original_s_size() -> None:
    masks = source("sam2.1_hiera_tiny", **MASKS)
    for segment in masks.generate([scene(48, 64)], [(96, 128)])[0]:
        x, y, w, h = segment.box
        assert 0 <= x < x + w <= 128
        assert 0 <= y < y + h <= 96


@pytest.mark.parametrize("size", [(64, 64), (40, 64), (90, 30)])
def test_eomt_s_segments_are_those_of_its_own_processor(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    # Blobs that overlap by some pixels, at the size of the model's masks.
    logits = F.interpolate(torch.randn(1, 5, 3, 3) * 8, (16, 16), mode="bicubic")
    classes = torch.randn(1, 5, 8) * 3
    output = type("Output", (), {"masks_queries_logits": logits, "class_queries_logits": classes})()
    f = frame(*size, 64)
    scores = classes[0].softmax(-1)[:, :-1].amax(-1)
    kept = torch.nonzero((scores >= 0.3) & (classes[0].argmax(-1) != 7))[:, 0]
    found = eomt.disjoint(logits[0, kept], scores[kept], f)
    processor = EomtImageProcessor(do_pad=True, size={"shortest_edge": 64, "longest_edge": 64})
    expected = processor.post_process_panoptic_segmentation(
        output, target_sizes=[size], threshold=0.3, mask_threshold=0.5, overlap_mask_area_threshold=0.8
    )[0]
    own = {round(s.predicted_iou, 4): full_mask(s, *size) for s in found}
    theirs = {
        round(info["score"], 4): (expected["segmentation"] == info["id"]).numpy()
        for info in expected["segments_info"]
    }
    assert found
    assert own.keys() == theirs.keys()
    for score, mask in own.items():
        assert (mask == theirs[score]).mean() > 0.99


def test_eomt_s_segments_share_no_pixel() -> None:
    model = eomt.EomtModel(tiny_network("eomt_large", seed=17))
    masks = model.source("cpu", {"pred_iou_thresh": 0.05, "precision": "fp32"})
    found = masks.generate([scene(48, 64), scene(64, 40)])
    assert any(found)
    for segments, size in zip(found, ((48, 64), (64, 40)), strict=True):
        total = sum((full_mask(segment, *size).astype(int) for segment in segments), np.zeros(size, int))
        assert total.max(initial=0) <= 1


@pytest.mark.parametrize("name", ["eomt_large", pytest.param("sam3", marks=pytest.mark.slow)])
def test_a_check_leaves_the_values_in_the_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = write_weights(tmp_path, name), list[bool]()
    half = {key: value.half() for key, value in load_file(path).items()}
    save_file(half, tmp_path / "half.safetensors", {"segray": path_arch(path)})
    checkpoint = resolve(str(tmp_path / "half.safetensors"))
    family: Any = (label_entry if name == "sam3" else mask_entry)(name).open_family()
    in_file, loaded = (family._load(name, checkpoint, mapped=mapped) for mapped in (True, False))
    assert {value.dtype for value in in_file.parameters()} == {torch.float16}
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}

    def read(checkpoint: Checkpoint, *, mapped: bool = False) -> dict[str, torch.Tensor]:
        asked.append(mapped)
        return load_state_dict(checkpoint, mapped=mapped)

    monkeypatch.setattr("segray.models.annotators.transformers_weights.load_state_dict", read)
    assert family.check(name, checkpoint) == family.load(name, checkpoint).size
    assert asked == [True, False]


def test_a_check_takes_types_that_no_network_is_built_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    path = write_weights(tmp_path, "eomt_large")
    small = {key: value.to(torch.float8_e4m3fn) for key, value in load_file(path).items()}
    save_file(small, tmp_path / "small.safetensors", {"segray": path_arch(path)})
    for build in (open_model, check_model):
        build("eomt_large", str(tmp_path / "small.safetensors"))
    del small["class_predictor.bias"]
    save_file(small, tmp_path / "short.safetensors", {"segray": path_arch(path)})
    with pytest.raises(WeightsError, match=r"missing keys: class_predictor\.bias$"):
        check_model("eomt_large", str(tmp_path / "short.safetensors"))
    assert caplog.text == "", "transformers tells of it in a table of its own"


SLOW = {name: pytest.mark.slow for name in TINY if name != "eomt_large"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in TINY])
def test_a_file_brings_its_architecture_and_must_fit(name: str, tmp_path: Path) -> None:
    path = write_weights(tmp_path, name)
    model, checkpoint = open_model(name, str(path))
    assert (model.size, checkpoint.path) == ({"eomt_large": 64}.get(name, 128), path)
    assert check_model(name, str(path)) == (model.size, checkpoint)
    state = tiny_network(name).state_dict()
    other = {key: value.clone() for key, value in list(state.items())[:-1]}
    save_file(other, tmp_path / "short.safetensors", {"segray": path_arch(path)})
    for build in (open_model, check_model):
        with pytest.raises(
            WeightsError, match=rf"short\.safetensors does not fit the model {name}: missing keys: "
        ):
            build(name, str(tmp_path / "short.safetensors"))
    save_file(
        {"x": torch.zeros(1)}, tmp_path / "odd.safetensors", {"segray": '{"arch": {"hidden_size": "no"}}'}
    )
    with pytest.raises(WeightsError, match=rf"odd\.safetensors does not fit the model {name}: "):
        open_model(name, str(tmp_path / "odd.safetensors"))


def test_an_architecture_that_is_larger_than_its_file_is_refused_before_it_takes_memory(
    tmp_path: Path,
) -> None:
    large = {"segray": json.dumps({"arch": {**EOMT, "hidden_size": 32_768, "num_attention_heads": 2}})}
    save_file({"x": torch.zeros(1)}, tmp_path / "large.safetensors", large)
    with pytest.raises(
        WeightsError, match=r"its architecture has \d+ parameters or more, and the file far fewer"
    ):
        open_model("eomt_large", str(tmp_path / "large.safetensors"))


def path_arch(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return str(file.metadata()["segray"])


@pytest.mark.slow
def test_the_published_architectures() -> None:
    """Published sizes are those of the video model, whose memory is 7.47 M parameters."""
    with torch.device("meta"):
        for name, arch in sam2.ARCH.items():
            found = sum(p.numel() for p in Sam2Model(Sam2Config(**arch)).parameters()) / 1e6
            assert found + 7.47 == pytest.approx(MASK_MODELS[name].parameters, abs=0.06)
        for name, arch in sam_hq.ARCH.items():
            found = sum(p.numel() for p in SamHQModel(SamHQConfig(**arch)).parameters()) / 1e6
            assert found == pytest.approx(MASK_MODELS[name].parameters, abs=0.06)
        network = EomtForUniversalSegmentation(EomtConfig(**eomt.ARCH["eomt_large"]))
    found = sum(p.numel() for p in network.parameters()) / 1e6
    assert found == pytest.approx(MASK_MODELS["eomt_large"].parameters, abs=0.06)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("eomt_large", {"points_per_side": 3}),
        ("sam_hq_vit_b", {"crop_n_layers": 1}),
        ("sam2.1_hiera_tiny", {"compile": True}),
    ],
)
def test_options_that_would_be_ignored_are_refused(name: str, keys: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=rf"^sam\.{next(iter(keys))} has no effect with sam\.model={name}; leave"
    ):
        check_sam_options(SamConfig(model=name, **keys))
