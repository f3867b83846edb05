"""SAM 2's masks are those of Meta's own generator, and its grid covers images that are not square."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import Sam2ImageProcessor, pipeline

from segray.models.annotators.loading import open_model
from segray.models.annotators.sam2 import ARCH
from segray.models.masks import Segment, full_mask
from segray.models.sam.generator import MaskGenerator
from segray.models.sam.geometry import Rgb
from segray.models.sam2.model import PromptedSam2
from tests.models.annotators.tiny import tiny_network
from tests.models.sam2.upstream import (
    CONFIG,
    logits_of,
    package,
    same_network,
    upstream_generator,
    upstream_model,
)
from tests.models.scenes import scene

OPTIONS: dict[str, Any] = {"points_per_side": 8, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.05}
Floats = NDArray[np.float32]
ROUNDING = 1e-4
"""Of logits whose deviation is about 2."""
SIZES = [(96, 96), (90, 160), (160, 90), (300, 200)]


@cache
def models() -> tuple[Any, Any]:
    """Upstream's and transformers', with the same weights."""
    package()
    model = upstream_model(seed=4)
    return model, same_network(model)


def assert_same_masks(image: Rgb, least: int, **options: Any) -> list[dict[str, Any]]:
    """segray's segments, mask by mask and pipelined, are upstream's records (at least so many), in order."""
    model, network = models()
    options = {**OPTIONS, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.jit.script
        generator = upstream_generator(model, **options)
    records = generator.generate(image)
    assert len(records) >= least
    for pipelined in (False, True):
        ours = MaskGenerator(PromptedSam2(network), **options, pipelined=pipelined)
        (segments,) = ours.generate([image])
        assert len(segments) == len(records)
        for segment, record in zip(segments, records, strict=True):
            assert_same(segment, record, lambda record: logits_of(generator, image, record))
    return records


def assert_same(segment: Segment, record: dict[str, Any], logits: Callable[[Any], Floats]) -> None:
    """Pixels may differ whose logit is 0, but for the order of sums."""
    mask = record["segmentation"]
    differs = full_mask(segment, *mask.shape) != mask
    if differs.any():
        assert np.abs(logits(record)[differs]).max() < ROUNDING
    else:
        x, y, w, h = segment.box
        assert [x, y, w - 1, h - 1] == record["bbox"]
        assert segment.area == record["area"]
    assert segment.predicted_iou == pytest.approx(record["predicted_iou"], abs=1e-5)
    # So may pixels at one of the two thresholds of stability.
    assert segment.stability_score == pytest.approx(record["stability_score"], abs=3 / segment.area)
    assert list(segment.point) == pytest.approx(record["point_coords"][0], rel=1e-6)
    assert list(segment.crop_box) == record["crop_box"]


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_those_of_meta_s_generator(size: tuple[int, int]) -> None:
    """With and without suppression: what random weights find has nearly the same box everywhere."""
    assert_same_masks(scene(*size), 100, box_nms_thresh=1.0)
    assert_same_masks(scene(*size), 2, box_nms_thresh=0.9)


def test_crops_are_those_of_meta_s_generator() -> None:
    records = assert_same_masks(scene(90, 160), 4, points_per_side=4, crop_n_layers=1, crop_nms_thresh=0.99)
    assert len({tuple(record["crop_box"]) for record in records}) > 2


def test_meta_s_own_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tensors that only videos need, which the image model leaves out."""
    model, network = models()
    monkeypatch.setitem(ARCH, "sam2.1_hiera_tiny", CONFIG)
    state = {**model.state_dict(), "memory_attention.norm.weight": torch.ones(3)}
    torch.save({"model": state}, tmp_path / "sam2.1_hiera_tiny.pt")
    loaded: Any = open_model("sam2.1_hiera_tiny", str(tmp_path / "sam2.1_hiera_tiny.pt"))[0]
    ours, expected = loaded._network.state_dict(), network.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


def prompted_points(network: Any) -> list[torch.Tensor]:
    """Collects the points [n, 2] that a network's prompt encoder gets, in pixels of its input."""
    seen: list[torch.Tensor] = []

    def watch(_: Any, inputs: tuple[Any, ...], keys: dict[str, Any]) -> None:
        points = inputs[0] if inputs else keys["input_points"]
        seen.append(points.reshape(-1, 2))

    network.prompt_encoder.register_forward_pre_hook(watch, with_kwargs=True)
    return seen


@pytest.mark.parametrize("size", [(72, 128), (128, 72)])
def test_the_grid_covers_what_the_pipeline_of_transformers_leaves_out(size: tuple[int, int]) -> None:
    image, network = scene(*size), tiny_network("sam2.1_hiera_tiny")
    seen = prompted_points(network)
    processor = Sam2ImageProcessor(size={"height": 128, "width": 128})
    theirs = pipeline("mask-generation", model=network, image_processor=processor, device="cpu")
    theirs(Image.fromarray(image), points_per_crop=8, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    misplaced = torch.cat(seen)
    short, long = (1, 0) if size[0] < size[1] else (0, 1)
    # The input is a square to which the image is stretched: the last row should be at 120 of 128.
    assert misplaced[:, long].max() == 120
    assert misplaced[:, short].max() == pytest.approx(120 * 72 / 128, abs=1)

    seen.clear()
    MaskGenerator(PromptedSam2(network), points_per_side=8).generate([image])
    points = torch.cat(seen)
    assert points.min() == 8
    assert points.max(0).values.tolist() == [120, 120]
    assert len(points.unique(dim=0)) == 64
