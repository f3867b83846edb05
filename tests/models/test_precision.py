"""What reduced precision may change, measured on the built-in models on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segray.models.clip.gem import dense_features
from segray.models.clip.model import build_clip, preprocess
from segray.models.masks import Segment, full_mask
from segray.models.precision import Precision
from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.generator import MaskGenerator, build_sam
from segray.models.sam.geometry import Rgb, point_grid
from segray.pipelines.scenes.picture_book import draw_scene

SIDE = 256
OPTIONS: dict[str, Any] = {"points_per_side": 8, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.8}


def scenes(count: int) -> list[Rgb]:
    return [draw_scene(seed, 0, SIDE).image for seed in range(count)]


def best_iou(segment: Segment, others: list[Segment]) -> float:
    mask = full_mask(segment, SIDE, SIDE)
    masks = [full_mask(other, SIDE, SIDE) for other in others]
    return max(float((mask & other).sum() / (mask | other).sum()) for other in masks)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.99), ("fp16", 0.999)])
def test_masks_hardly_change(precision: Precision, least: float) -> None:
    """Measured: 0.997 and 0.9998 over four scenes."""
    sam, images = build_sam("builtin")[0], scenes(2)
    exact = MaskGenerator(sam, **OPTIONS).generate(images)
    rounded = MaskGenerator(sam, precision=precision, **OPTIONS).generate(images)
    pairs = zip(exact, rounded, strict=True)
    ious = [best_iou(segment, others) for segments, others in pairs for segment in segments]
    assert len(ious) > 5
    assert least < np.mean(ious) < 1
    assert {parameter.dtype for parameter in sam.parameters()} == {torch.float32}


@torch.no_grad()
def test_what_decides_stays_in_fp32() -> None:
    sam, _ = build_sam("builtin")
    decoder = MaskDecoder(sam, torch.bfloat16)
    image = decoder.image_tokens(torch.randn(64, 24, 24, generator=torch.Generator().manual_seed(0)))
    assert image.shared.tokens.dtype == torch.bfloat16
    prompts = decoder.prompts(torch.from_numpy(point_grid(2) * 192))
    logits, iou = decoder.all_masks(image, prompts, 24)
    for values in (prompts, logits, iou):
        assert values.dtype == torch.float32
        # Not fp32 in name only: rounded to bfloat16 they would be others.
        assert not torch.equal(values, values.bfloat16().float())


@torch.no_grad()
@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.99), ("fp16", 0.9995)])
def test_features_hardly_change(precision: Precision, least: float) -> None:
    """Measured: cosines of at least 0.995 and 0.9999 over four scenes."""

    def features(chosen: Precision) -> Tensor:
        clip = build_clip("builtin", precision=chosen)
        batch = preprocess(scenes(2), clip.image_size, clip.mean, clip.std)
        return dense_features(clip.model.visual, batch, depth=clip.depth)

    rounded, exact = features(precision), features("fp32")
    assert rounded.dtype == torch.float32
    assert rounded.norm(dim=-1).sub(1).abs().max() < 1e-5
    assert least < (rounded * exact).sum(-1).min() < 1


def test_the_text_tower_stays_in_fp32() -> None:
    clip = build_clip("builtin", precision="bf16")
    assert clip.model.visual.proj.dtype == torch.bfloat16
    assert clip.model.encode_text(clip.tokenizer(["a tree"])).dtype == torch.float32
