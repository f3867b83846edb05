"""The fast parts of SAM against segment_anything's, one by one; `test_generator.py` tests them together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from segray.models.masks import Segment, segment_from_mask
from segray.models.sam import encoder, transformer
from segray.models.sam.cpu_masks import segments_on_cpu
from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.encoder import encode_images
from segray.models.sam.geometry import (
    Frame,
    Rgb,
    Window,
    frame,
    normalised,
    point_grid,
    resized,
    rows_needed,
    upsample,
)
from segray.models.sam.low_rank.transformer import LowRankTransformer
from segray.models.sam.postprocess import Candidates, Thresholds, at_inner_edges, suppress
from tests.models.scenes import scene

pytestmark = pytest.mark.usefixtures("no_gradients")


def preprocess(sam: Sam, images: list[Rgb]) -> Tensor:
    side = sam.image_encoder.img_size
    return normalised(sam, [resized(image, image.shape[:2], side) for image in images])


def encode(sam: Sam, images: list[Rgb]) -> Tensor:
    return encode_images(sam.image_encoder, preprocess(sam, images))


# Encoder


@pytest.mark.parametrize("values", [1, 1 << 13, 1 << 25])
def test_the_encoder_is_upstream_s(sam: Sam, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two images, row by row, by some rows, all at once; windows that do not fill the image, too."""
    monkeypatch.setattr(encoder, "_BIAS_VALUES_ON_CPU", values)
    images = preprocess(sam, [scene(200, 256), scene(256, 170)])
    image_encoder = sam.image_encoder
    assert {block.window_size for block in image_encoder.blocks} == {0, 6}
    upstream = image_encoder(images)
    assert (encode_images(image_encoder, images) - upstream).abs().max() < 2e-5 < upstream.std() / 1e4


def test_the_encoder_without_relative_positions(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in sam.image_encoder.blocks:
        monkeypatch.setattr(block.attn, "use_rel_pos", False)
        monkeypatch.setattr(block, "window_size", 5 if block.window_size else 0)
    images = preprocess(sam, [scene(256, 256)])
    upstream = sam.image_encoder(images)
    assert (encode_images(sam.image_encoder, images) - upstream).abs().max() < 2e-5


# Decoder


def upstream_decoder(sam: Sam, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, 3, h, w] and predicted IoU [B, 3] of segment_anything's modules."""
    labels = torch.ones(len(points), 1, dtype=torch.int)
    sparse, dense = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    logits, iou = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    return logits, iou


@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("values", [192 * 64, 128 * 64, 1 << 18])
@pytest.mark.parametrize("low_rank", [False, True])
def test_the_decoder_is_upstream_s(
    sam: Sam, threshold: float, values: int, low_rank: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """576 rows of each prompt written in parts, of equal size and not, and all prompts at once."""
    monkeypatch.setattr(transformer, "_CACHED_VALUES", values)
    monkeypatch.setattr(LowRankTransformer, "fits", lambda _: low_rank)
    embedding = encode(sam, [scene(256, 256)])
    points = torch.from_numpy(point_grid(6)) * 192
    logits, iou = upstream_decoder(sam, embedding, points)
    decoder = MaskDecoder(sam)
    masks, scores, prompts = decoder(decoder.image_tokens(embedding[0]), points, threshold, 24)
    keep = iou > threshold if threshold else torch.ones_like(iou, dtype=torch.bool)
    least, most = {0.0: (108, 108), 0.5: (20, 100), 2.0: (0, 0)}[threshold]
    assert least <= keep.sum() <= most
    assert prompts.tolist() == keep.nonzero()[:, 0].tolist()
    assert masks.shape == logits[keep].shape
    torch.testing.assert_close(scores, iou[keep], rtol=0, atol=1e-5)
    # The built-in model's logits are large (a deviation of 40): what counts is their last digits.
    torch.testing.assert_close(masks, logits[keep], rtol=1e-4, atol=1e-3)


def test_a_first_block_with_a_residual(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    """No released SAM's has one; the module allows it, but then adds positions to what it attends to."""
    monkeypatch.setattr(sam.mask_decoder.transformer.layers[0], "skip_first_layer_pe", False)
    with pytest.raises(ValueError, match="skip_first_layer_pe"):
        MaskDecoder(sam)


def test_rows_below_the_image_are_not_computed(sam: Sam) -> None:
    image = scene(100, 256)
    f = frame(100, 256, 192)
    rows = rows_needed(f, 24)
    assert rows == 10
    decoder, points = MaskDecoder(sam), torch.from_numpy(point_grid(4) * [192, 75])
    tokens = decoder.image_tokens(encode(sam, [image])[0])
    some, all_ = decoder(tokens, points, 0, rows)[0], decoder(tokens, points, 0, 24)[0]
    assert not some[:, 4 * rows :].any()
    torch.testing.assert_close(upsample(some, f), upsample(all_, f), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("side", "rows"), [(192, 24), (1024, 64)])
def test_the_rows_needed_are_just_those_that_count(side: int, rows: int) -> None:
    for height in range(1, side + 1, 7):
        f = frame(height, side, side)
        needed = rows_needed(f, rows)
        last, below = torch.zeros(2, 4 * rows, 4 * rows // 8)
        last[4 * needed - 4 : 4 * needed], below[4 * needed :] = 1, 1
        assert [bool(seen.any()) for seen in upsample(torch.stack([last, below]), f)] == [True, False]


# From logits to segments


LIMITS = Thresholds(cut=0.0, stability_offset=1.0, stability=0.8, box_nms=0.7)


def blobs(count: int, samples: int, seed: int) -> Candidates:
    """Ellipses of soft and of hard edges, with noise, many of them nearly the same."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:samples, :samples] / samples
    centres, radii = rng.uniform(0.05, 0.95, (8, 2)), rng.uniform(0.03, 0.4, (8, 2))
    logits = []
    for k in range(count):
        (cy, cx), (ry, rx) = centres[k % 8] + rng.normal(0, 0.01, 2), radii[k % 8] * rng.uniform(0.8, 1.2, 2)
        form = 1 - ((y - cy) / ry) ** 2 - ((x - cx) / rx) ** 2
        logits.append(
            np.clip(form * rng.uniform(2, 40), -20, 20) + rng.normal(0, rng.uniform(0, 1.5), y.shape)
        )
    iou = torch.from_numpy(rng.permutation(count).astype(np.float32) / count)
    return Candidates(torch.from_numpy(np.stack(logits)).float(), iou, torch.zeros(count, 2).double())


def at_full_size(
    candidates: Candidates, f: Frame, window: Window, size: tuple[int, int], limits: Thresholds
) -> list[Segment]:
    """Every mask upsampled, then stability, inner edges and suppression, as upstream does it."""
    masks = []
    for logits, iou in zip(upsample(candidates.logits, f), candidates.iou.tolist(), strict=True):
        high, low = (
            (logits > limits.cut + limits.stability_offset).sum(),
            (logits > limits.cut - limits.stability_offset).sum(),
        )
        if (logits > limits.cut).any() and high / low >= limits.stability:
            masks.append(segment_from_mask((logits > limits.cut).numpy(), iou, float(high / low)))
    boxes = torch.tensor([(x, y, x + w - 1, y + h - 1) for x, y, w, h in (s.box for s in masks)])
    boxes = boxes.reshape(-1, 4)
    inside = (~at_inner_edges(boxes, window, size)).nonzero()[:, 0]
    scores = torch.tensor([s.predicted_iou for s in masks])
    kept = inside[suppress(boxes[inside], scores[inside], limits.box_nms)]
    return [masks[k] for k in kept.tolist()]


@pytest.mark.parametrize(
    ("height", "width", "side"), [(256, 256, 192), (60, 90, 192), (33, 400, 192), (700, 500, 192), (5, 9, 96)]
)
@pytest.mark.parametrize(
    "limits",
    [LIMITS, Thresholds(0.5, 0.25, 0.0, 0.5), Thresholds(0.0, 1.0, 0.9, 1.0), Thresholds(0, 3, 0.3, 0)],
)
def test_lazily_the_same_masks_as_at_full_size(
    height: int, width: int, side: int, limits: Thresholds
) -> None:
    """In a window inside an image, so that masks at its sides are left out."""
    f, window, size = frame(height, width, side), (7, 0, 7 + width, height), (height + 90, width + 7)
    candidates = blobs(60, 48, seed=height)
    lazy = list(segments_on_cpu(candidates, f, window, size, limits))
    full = at_full_size(candidates, f, window, size, limits)
    assert len(full) > 0 or min(height, width) < 100
    assert [s.predicted_iou for s in lazy] == [s.predicted_iou for s in full]
    for segment, other in zip(lazy, full, strict=True):
        x, y, w, h = other.box
        assert (segment.box, segment.area) == ((x + window[0], y + window[1], w, h), other.area)
        assert segment.crop_box == (*window[:2], width, height)
        assert list(segment.point) == list(window[:2])
        assert np.array_equal(segment.mask, other.mask)
        assert segment.stability_score == pytest.approx(other.stability_score, abs=1 / segment.area)
    assert all(a.predicted_iou > b.predicted_iou for a, b in pairwise(lazy))


def test_nothing_found_is_nothing() -> None:
    none = Candidates(torch.zeros(0, 48, 48), torch.zeros(0), torch.zeros(0, 2).double())
    assert list(segments_on_cpu(none, frame(9, 9, 96), (0, 0, 9, 9), (9, 9), LIMITS)) == []
