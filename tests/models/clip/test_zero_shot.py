from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segray.models.clip import zero_shot
from segray.models.clip.text import ZeroShotClassifier
from segray.models.clip.zero_shot import classify_segments, dense_labels, finer_grid, pool_segments
from segray.models.label_map import SegmentClasses, render_label_map, split
from segray.models.masks import Segment, full_mask, segment_from_mask

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def random_segments(rng: np.random.Generator, height: int, width: int, count: int) -> list[Segment]:
    """Irregular segments of all sizes; the first is a single pixel, the second the whole image."""
    segments = []
    for k in range(count):
        mask = np.zeros((height, width), bool)
        rows, columns = np.sort(rng.integers(0, height, 2)), np.sort(rng.integers(0, width, 2))
        box = mask[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1]
        box[:] = rng.random(box.shape) < 0.5
        if k == 0 or not mask.any():
            mask[:] = False
            mask[rng.integers(height), rng.integers(width)] = True
        if k == 1:
            mask[:] = True
        segments.append(segment_from_mask(mask))
    return segments


def upsample_then_mean(features: Tensor, segments: Sequence[Segment], height: int, width: int) -> Tensor:
    grid = features.double().permute(2, 0, 1)[None]
    full = F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)[0]
    return torch.stack([full[:, torch.from_numpy(full_mask(s, height, width))].mean(1) for s in segments])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((28, 28), (375, 500)),
        ((28, 28), (50, 33)),
        ((7, 12), (192, 61)),
        ((28, 20), (9, 5)),
        ((1, 1), (40, 30)),
        ((4, 6), (4, 6)),
        ((5, 3), (1, 1)),
        ((3, 2), (700, 8)),
    ],
)
def test_pooling_is_the_mean_of_the_upsampled_features(
    device: str, grid: tuple[int, int], size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(sum(grid) + sum(size))
    features = F.normalize(torch.randn(*grid, 48, generator=torch.Generator().manual_seed(1)), dim=-1)
    segments = random_segments(rng, *size, count=12)
    pooled = pool_segments(features.to(device), segments, *size)
    assert pooled.shape == (12, 48)
    assert pooled.device.type == device
    assert (pooled.cpu() - upsample_then_mean(features, segments, *size)).abs().max() < 1e-6


def test_masks_as_large_as_the_image_pool_as_crops_do(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(6, 5, 48, generator=torch.Generator().manual_seed(2))
    segments = random_segments(np.random.default_rng(3), 37, 23, count=7)
    expected = pool_segments(features, segments, 37, 23)
    monkeypatch.setattr(zero_shot, "_weights_by_crop", zero_shot.weights_by_image)
    monkeypatch.setattr(zero_shot, "_PIXELS_AT_ONCE", 2 * 37 * 23)
    torch.testing.assert_close(pool_segments(features, segments, 37, 23), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="reaches beyond"):
        pool_segments(features, segments, 20, 23)


def test_pooling_random_shapes() -> None:
    rng = np.random.default_rng(7)
    for _ in range(60):
        (h, w), (height, width) = rng.integers(1, 16, 2), rng.integers(1, 90, 2)
        features = torch.from_numpy(rng.standard_normal((h, w, 5)).astype(np.float32))
        segments = random_segments(rng, height, width, 4)
        pooled = pool_segments(features, segments, int(height), int(width))
        expected = upsample_then_mean(features, segments, int(height), int(width))
        assert (pooled - expected).abs().max() < 1e-6 * max(1.0, float(features.abs().max()))


def test_pooling_a_constant_gives_the_constant() -> None:
    features = torch.full((6, 9, 3), 0.7)
    segments = random_segments(np.random.default_rng(0), 31, 57, 8)
    torch.testing.assert_close(pool_segments(features, segments, 31, 57), torch.full((8, 3), 0.7))


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float16, torch.float32)],
)
def test_pooling_precision(given: torch.dtype, expected: torch.dtype) -> None:
    features = torch.randn(4, 4, 3).to(given)
    segments = random_segments(np.random.default_rng(0), 20, 20, 3)
    pooled = pool_segments(features, segments, 20, 20)
    assert pooled.dtype == pool_segments(features, [], 20, 20).dtype == expected
    torch.testing.assert_close(
        pooled.double(), upsample_then_mean(features, segments, 20, 20), rtol=0, atol=1e-6
    )


def test_no_segments_pool_to_no_rows() -> None:
    assert pool_segments(torch.randn(4, 4, 7), [], 20, 30).shape == (0, 7)


def test_pooling_has_gradients_even_after_use_in_inference_mode() -> None:
    segments = random_segments(np.random.default_rng(0), 23, 29, 3)
    features = torch.randn(3, 4, 5, requires_grad=True)
    with torch.inference_mode():
        pool_segments(features.detach().clone(), segments, 23, 29)
    pool_segments(features, segments, 23, 29).sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad.sum(), torch.tensor(15.0))


@pytest.mark.parametrize("box", [(-1, 0, 2, 2), (0, -1, 2, 2), (9, 0, 2, 2), (0, 7, 2, 2)])
def test_a_segment_beyond_its_image(box: tuple[int, int, int, int]) -> None:
    segment = Segment(box, np.ones((2, 2), bool), 4, 1.0, 1.0)
    with pytest.raises(ValueError, match="reaches beyond its image of 10x8 px"):
        pool_segments(torch.randn(2, 2, 3), [segment], 8, 10)


def random_classifier(
    rng: np.random.Generator, dim: int, class_ids: Sequence[int], scale: float = 20.0
) -> ZeroShotClassifier:
    embeddings = torch.from_numpy(rng.standard_normal((len(class_ids), dim)).astype(np.float32))
    return ZeroShotClassifier(F.normalize(embeddings, dim=-1), torch.tensor(class_ids), scale)


def naive_naming(feature: Any, classifier: ZeroShotClassifier, threshold: float) -> dict[str, Any]:
    """One segment, one name and one class at a time."""
    cosine: dict[int, float] = {}
    feature = feature / np.linalg.norm(feature)
    for embedding, class_id in zip(classifier.embeddings.numpy(), classifier.class_ids.tolist(), strict=True):
        cosine[class_id] = max(cosine.get(class_id, -2.0), float(feature @ embedding))
    ranked = sorted(cosine, key=lambda c: (-cosine[c], c))
    total = sum(math.exp(classifier.logit_scale * value) for value in cosine.values())
    best = cosine[ranked[0]]
    return {
        "class_id": ranked[0] if best > threshold else 0,
        "score": best,
        "margin": best - (cosine[ranked[1]] if len(ranked) > 1 else -1),
        "confidence": math.exp(classifier.logit_scale * best) / total,
        "runner_up_class": ranked[1] if len(ranked) > 1 else -1,
        "has_class": best > threshold,
    }


@pytest.mark.parametrize("device", DEVICES)
def test_naming_equals_a_loop_over_the_classes(device: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        n_names, dim = int(rng.integers(1, 12)), int(rng.integers(2, 9))
        classifier = random_classifier(
            rng, dim, rng.integers(0, 6, n_names).tolist(), scale=float(rng.uniform(1, 100))
        )
        features = rng.standard_normal((9, dim)).astype(np.float32)
        threshold = float(rng.uniform(-0.5, 0.9))
        naming = classify_segments(torch.from_numpy(features).to(device), classifier, threshold)
        for k, feature in enumerate(features):
            for field, value in naive_naming(feature, classifier, threshold).items():
                assert getattr(naming, field)[k] == pytest.approx(value, abs=2e-5), field


def bank_2d(*names: tuple[int, float], scale: float = 10.0) -> ZeroShotClassifier:
    """Names as (class id, angle in degrees) on the unit circle."""
    angles = torch.tensor([math.radians(angle) for _, angle in names])
    return ZeroShotClassifier(
        torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([i for i, _ in names]), scale
    )


def test_background_names_are_one_class() -> None:
    classifier = bank_2d((0, 0), (0, 10), (3, 60), (5, 180))
    naming = classify_segments(torch.tensor([[2.0, 0.0]]), classifier, 0.0)
    assert (naming.class_id[0], naming.runner_up_class[0], naming.has_class[0]) == (0, 3, True)
    assert naming.margin[0] == pytest.approx(0.5)
    assert naming.confidence[0] == pytest.approx(math.exp(10) / (math.exp(10) + math.exp(5) + math.exp(-10)))


def test_a_score_at_the_threshold_is_no_class() -> None:
    classifier = ZeroShotClassifier(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 2]), 1.0)
    pooled = torch.tensor([[3.0, 4.0]])
    score = classify_segments(pooled, classifier, -1.0).score[0]
    at, below = (
        classify_segments(pooled, classifier, t)
        for t in (float(score), float(np.nextafter(score, np.float32(0))))
    )
    assert (at.class_id[0], at.has_class[0]) == (0, False)
    assert (below.class_id[0], below.has_class[0]) == (2, True)
    assert (at.score, at.margin, at.confidence) == (below.score, below.margin, below.confidence)
    assert at.runner_up_class[0] == 1


def test_equal_cosines_go_to_the_lower_id() -> None:
    classifier = ZeroShotClassifier(torch.tensor([[1.0, 0.0]] * 4), torch.tensor([7, 2, 9, 4]), 1.0)
    naming = classify_segments(torch.ones(1, 2), classifier, 0.0)
    assert (naming.class_id[0], naming.runner_up_class[0], naming.margin[0]) == (2, 4, 0.0)


def test_a_single_class_has_no_runner_up() -> None:
    naming = classify_segments(torch.tensor([[1.0, 0.0]]), bank_2d((1, 60), (1, 90)), 0.0)
    assert (naming.class_id[0], naming.runner_up_class[0], naming.confidence[0]) == (1, -1, 1.0)
    assert naming.margin[0] == pytest.approx(1.5)


def test_naming_types() -> None:
    for count in (0, 3):
        naming = classify_segments(torch.randn(count, 2).half(), bank_2d((0, 0), (1, 90)), 0.0)
        assert naming.unknown is None
        named = [name for name in SegmentClasses.__dataclass_fields__ if name != "unknown"]
        types = {name: getattr(naming, name).dtype for name in named}
        assert types == {
            "class_id": np.int16,
            "score": np.float32,
            "margin": np.float32,
            "confidence": np.float32,
            "runner_up_class": np.int16,
            "has_class": np.bool_,
        }
        assert all(getattr(naming, name).shape == (count,) for name in types)


def rectangle(x: int, y: int, w: int, h: int) -> Segment:
    return Segment((x, y, w, h), np.ones((h, w), bool), w * h, 1.0, 1.0)


def naming_of(
    ids: Sequence[int], scores: Sequence[float], named: Sequence[bool] | None = None
) -> SegmentClasses:
    score = np.array(scores, np.float32)
    return SegmentClasses(
        np.array(ids, np.int16),
        score,
        score,
        score,
        np.zeros(len(ids), np.int16),
        np.ones(len(ids), bool) if named is None else np.array(named),
    )


def test_the_smaller_segment_lies_on_top_whatever_its_score() -> None:
    segments = [rectangle(1, 0, 1, 2), rectangle(0, 0, 4, 2)]
    label, confidence = render_label_map(segments, naming_of([1, 2], [0.2, 0.9]), 3, 4)
    assert label.tolist() == [[2, 1, 2, 2], [2, 1, 2, 2], [0, 0, 0, 0]]
    assert confidence.tolist() == [[230, 51, 230, 230], [230, 51, 230, 230], [0, 0, 0, 0]]
    assert label.dtype == confidence.dtype == np.uint8


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_equal_areas_the_higher_score_lies_on_top(order: tuple[int, int]) -> None:
    segments, ids, scores = [rectangle(0, 0, 2, 1), rectangle(1, 0, 2, 1)], [1, 2], [0.8, 0.3]
    naming = naming_of([ids[i] for i in order], [scores[i] for i in order])
    assert render_label_map([segments[i] for i in order], naming, 1, 3)[0].tolist() == [[1, 1, 2]]


def test_background_covers_and_a_segment_without_a_class_does_not() -> None:
    segments = [rectangle(0, 0, 4, 1), rectangle(0, 0, 1, 1), rectangle(3, 0, 1, 1)]
    naming = naming_of([7, 0, 0], [0.6, 0.4, 0.4], [True, True, False])
    label, confidence = render_label_map(segments, naming, 1, 4)
    assert label.tolist() == [[0, 7, 7, 7]]
    assert confidence.tolist() == [[102, 153, 153, 153]]


def test_only_the_pixels_of_the_mask_are_painted() -> None:
    segment = segment_from_mask(np.eye(3, dtype=bool))
    assert render_label_map([segment], naming_of([5], [1.0]), 3, 3)[0].tolist() == [
        [5, 0, 0],
        [0, 5, 0],
        [0, 0, 5],
    ]


def test_painting_nothing() -> None:
    label, confidence = render_label_map([], classify_segments(torch.zeros(0, 2), bank_2d((1, 0)), 0.0), 4, 5)
    assert label.shape == confidence.shape == (4, 5)
    assert not label.any()
    assert not confidence.any()


def naive_dense(
    features: Tensor, classifier: ZeroShotClassifier, size: tuple[int, int], threshold: float
) -> tuple[Any, Any]:
    ids = sorted(set(classifier.class_ids.tolist()))
    by_name = F.normalize(features.double(), dim=-1) @ classifier.embeddings.double().T
    by_class = torch.stack([by_name[..., classifier.class_ids == i].amax(-1) for i in ids])
    full = F.interpolate(by_class[None], size, mode="bilinear", align_corners=False)[0]
    score, best = full.max(0)
    share = (classifier.logit_scale * full).softmax(0).amax(0)
    label = torch.where(score > threshold, torch.tensor(ids)[best], 0).numpy()
    return label, torch.where(score > threshold, share * 255, 0).numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(45, 70), (1, 9), (6, 4)])
@pytest.mark.parametrize("values_at_once", [1, 3000, 1 << 24])
def test_dense_labels_name_each_pixel(
    monkeypatch: pytest.MonkeyPatch, device: str, size: tuple[int, int], values_at_once: int
) -> None:
    monkeypatch.setattr("segray.models.clip.zero_shot._VALUES_AT_ONCE", values_at_once)
    rng = np.random.default_rng(5)
    classifier = random_classifier(rng, 6, [0, 0, 1, 4, 4, 9])
    features = torch.from_numpy(rng.standard_normal((7, 10, 6)).astype(np.float32))
    label, confidence, best = dense_labels(features.to(device), classifier, *size, threshold=0.35)
    expected, share = naive_dense(features, classifier, size, 0.35)
    assert label.dtype == confidence.dtype == best.dtype == np.uint8
    np.testing.assert_array_equal(label, expected)
    np.testing.assert_array_equal(best, naive_dense(features, classifier, size, -1.0)[0])
    assert np.abs(confidence - share).max() < 0.51
    assert (label == 0).any() or size[0] < 10


def test_a_classifier_with_a_bias_labels_by_the_softmax_on_a_finer_grid() -> None:
    rng = np.random.default_rng(6)
    features = torch.from_numpy(rng.standard_normal((3, 4, 2)).astype(np.float32))
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    bias = torch.tensor([0.1, -0.4, 0.3])
    classifier = ZeroShotClassifier(embeddings, torch.tensor([0, 2, 2]), 50.0, bias)
    finer = finer_grid(features)
    assert finer.shape == (6, 8, 2)
    assert torch.allclose(finer.norm(dim=-1), torch.ones(6, 8))
    by_name = finer @ embeddings.T + bias
    shares = torch.stack([by_name[..., 0], by_name[..., 1:].amax(-1)], -1).softmax(-1)
    found = dense_labels(features, classifier, 6, 8, -1.0)
    np.testing.assert_array_equal(found.label, np.array([0, 2])[shares.argmax(-1).numpy()])
    np.testing.assert_array_equal(found.best, found.label)
    assert np.abs(found.confidence - 255 * shares.amax(-1).numpy()).max() < 0.51
    assert set(np.unique(found.label)) == {0, 2}
    # Without the bias another class wins somewhere.
    other = dense_labels(features, dataclasses.replace(classifier, bias=torch.zeros(3)), 6, 8, -1.0)
    assert (other.label != found.label).any()


def test_naming_and_dense_labels_leave_gradients_alone() -> None:
    features = torch.randn(4, 4, 2, requires_grad=True)
    classifier = bank_2d((0, 0), (1, 90))
    label = dense_labels(features, classifier, 8, 8, 0.0).label
    naming = classify_segments(features.flatten(0, 1), classifier, 0.0)
    assert label.shape == (8, 8)
    assert naming.class_id.shape == (16,)
    assert features.requires_grad
    assert features.grad is None


@pytest.mark.parametrize("with_unknown", [False, True])
def test_classes_of_several_images_are_parted(with_unknown: bool) -> None:
    ids, scores, all_true = np.arange(5, dtype=np.int16), np.arange(5, dtype=np.float32), np.ones(5, bool)
    unknown = ids > 2 if with_unknown else None
    parts = split(SegmentClasses(ids, scores, scores, scores, ids, all_true, unknown), [2, 0, 3])
    assert [part.class_id.tolist() for part in parts] == [[0, 1], [], [2, 3, 4]]
    assert [part.score.dtype for part in parts] == [np.float32] * 3
    expected = [[False, False], [], [False, True, True]] if with_unknown else [None] * 3
    assert [part.unknown if part.unknown is None else part.unknown.tolist() for part in parts] == expected
