from __future__ import annotations

import pytest
import torch
from torch import nn

from segray.models.semi.student import Drops, Student, complementary_factors, drop_factors
from tests.models.segmenters.tiny_segmenter import TinySegmenter, tiny_segmenter


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed * 100 + i) for i in range(count)]


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 16, 20, generator=torch.Generator().manual_seed(seed))


def _normed() -> TinySegmenter:
    torch.manual_seed(0)
    network = TinySegmenter(3)
    network.decoder = nn.Sequential(nn.BatchNorm2d(12), nn.Conv2d(12, 3, 1))
    return network.train()


def test_each_view_equals_a_forward_pass_of_its_own() -> None:
    network = tiny_segmenter()
    labelled, weak, first, second = (images(2, seed) for seed in range(4))
    logits = Student(network)(labelled, weak, (first, second), Drops())
    assert torch.allclose(logits.labelled, network(labelled), atol=1e-6)
    assert logits.weak is not None
    assert torch.allclose(logits.weak, network(weak), atol=1e-6)
    assert torch.allclose(logits.strong[1], network(second), atol=1e-6)
    assert logits.feature is None
    assert not logits.weak.requires_grad


def test_feature_view_drops_channels_of_the_weak_images_maps() -> None:
    network = tiny_segmenter()
    labelled, weak = images(1), images(2, 1)
    factors = drop_factors([6, 6], 0.5, generators(2))
    logits = Student(network)(labelled, weak, (), Drops(feature=factors))
    maps = tuple(m * f for m, f in zip(network.encode(weak), factors, strict=True))
    assert logits.feature is not None
    assert torch.allclose(logits.feature, network.decode(maps, (16, 20)), atol=1e-6)
    assert logits.feature.requires_grad
    assert torch.allclose(logits.labelled, network(labelled), atol=1e-6)


@pytest.mark.parametrize("normed", [False, True])
def test_a_weak_view_that_a_teacher_predicts_leaves_the_rest_as_it_is(normed: bool) -> None:
    network = _normed() if normed else tiny_segmenter()
    labelled, weak = images(2), images(2, 1) * 3
    drops = Drops(feature=drop_factors([6, 6], 0.5, generators(2)))
    usual = Student(network)(labelled, weak, (), drops)
    taught = Student(network)(labelled, weak, (), drops, predict_weak=False)
    assert taught.weak is None
    assert taught.feature is not None
    assert usual.feature is not None
    assert torch.equal(taught.labelled, usual.labelled)
    assert torch.equal(taught.feature, usual.feature)


def test_strong_views_have_factors_of_their_own() -> None:
    network = tiny_segmenter()
    views = images(2, 1), images(2, 2)
    pair = complementary_factors([6, 6], generators(2), [False, False])
    logits = Student(network)(images(1), None, views, Drops(strong=pair))
    for view, factors, strong in zip(views, pair, logits.strong, strict=True):
        maps = tuple(m * f for m, f in zip(network.encode(view), factors, strict=True))
        assert torch.allclose(strong, network.decode(maps, (16, 20)), atol=1e-6)


def test_batch_statistics_are_taken_over_labelled_and_weak_images_together() -> None:
    network = _normed()
    labelled, weak = images(2), images(2, 1) * 3
    logits = Student(network)(labelled, weak, (), Drops())
    together = network(torch.cat([labelled, weak]))
    assert logits.weak is not None
    assert torch.allclose(torch.cat([logits.labelled, logits.weak]), together, atol=1e-5)


def test_dropped_channels_are_zero_and_the_rest_keeps_the_mean() -> None:
    (factors,) = drop_factors([4000], 0.25, generators(3))
    assert factors.shape == (3, 4000, 1, 1)
    assert factors.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (factors == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_an_images_factors_do_not_depend_on_its_batch() -> None:
    (both,) = drop_factors([8], 0.5, generators(2))
    (second,) = drop_factors([8], 0.5, generators(2)[1:])
    assert torch.equal(both[1:], second)


def test_complementary_views_share_each_channel_out() -> None:
    whole = [i % 2 == 0 for i in range(40)]
    (first, wide, third), (second, *_) = complementary_factors([64, 80, 64], generators(40), whole)
    assert torch.equal(first + second, torch.full_like(first, 2))
    assert (first == 1).flatten(1).all(1).tolist() == (wide == 1).flatten(1).all(1).tolist() == whole
    assert set(first[1::2].unique().tolist()) == {0.0, 2.0}
    # Maps of one width lose the same channels.
    assert torch.equal(first, third)


def test_dropped_maps_have_the_batch_statistics_of_the_clean_ones() -> None:
    network = _normed()
    labelled, weak = images(2), images(2, 1) * 3
    factors = drop_factors([6, 6], 0.5, generators(2))
    logits = Student(network)(labelled, weak, (), Drops(feature=factors))
    maps = network.encode(torch.cat([labelled, weak]))
    dropped = (m[2:] * f for m, f in zip(maps, factors, strict=True))
    together = network.decode(tuple(map(torch.cat, zip(maps, dropped, strict=True))), (16, 20))
    assert logits.weak is not None
    assert logits.feature is not None
    found = torch.cat([logits.labelled, logits.weak, logits.feature])
    assert torch.allclose(found, together, atol=1e-5)
    assert logits.feature.requires_grad
    assert not logits.weak.requires_grad
