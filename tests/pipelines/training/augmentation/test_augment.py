from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from segray.pipelines.training.augmentation.augment import (
    CutMix,
    StrongAugment,
    WeakAugment,
    WeakBatch,
    normalise,
)
from segray.pipelines.training.augmentation.colour import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """An image with the column in red and the row in green, and maps of the column and the row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([columns, rows, torch.full_like(rows, 200)]).to(torch.uint8)
    return image, columns.to(torch.uint8), rows.to(torch.uint8)


def weak(size: tuple[int, int], augment: WeakAugment, seed: int = 0, count: int = 1) -> WeakBatch:
    image, columns, rows = coordinates(*size)
    return augment([image] * count, [[columns, rows]] * count, draw(seed))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_crop_without_resizing_is_the_source_pixel_by_pixel(flip: float) -> None:
    batch = weak((90, 120), WeakAugment(32, scale=(1.0, 1.0), flip=flip), count=8)
    columns, rows = batch.maps
    corners = set()
    for i in range(8):
        image = (batch.images[i] * 255).round().to(torch.uint8)
        assert torch.equal(image[0], columns[i])
        assert torch.equal(image[1], rows[i])
        assert (image[2] == 200).all()
        across = columns[i].int().diff(dim=1)
        assert (across == (-1 if flip else 1)).all()
        assert (rows[i].int().diff(dim=0) == 1).all()
        corners.add((int(rows[i].min()), int(columns[i].min())))
    assert not batch.padding.any()
    assert len(corners) == 8


def test_crops_reach_every_edge_of_the_image() -> None:
    batch = weak((34, 35), WeakAugment(32, scale=(1.0, 1.0), flip=0.0), count=200)
    columns, rows = batch.maps
    assert set(columns[:, 0, 0].tolist()) == {0, 1, 2, 3}
    assert set(rows[:, 0, 0].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("size", [(90, 120), (120, 90), (64, 200), (100, 100)])
def test_image_maps_and_padding_move_together(size: tuple[int, int]) -> None:
    batch = weak(size, WeakAugment(96), seed=4, count=24)
    columns, rows = batch.maps
    assert batch.padding.any()
    assert not batch.padding.all((1, 2)).any()
    for i in range(24):
        inside = ~batch.padding[i]
        # Where the image is ramps, bilinear and nearest sampling differ by the pixel's own width at most.
        for channel, ramp in ((0, columns), (1, rows)):
            difference = batch.images[i, channel] * 255 - ramp[i].float()
            assert difference[inside].abs().max() <= 1.51
        assert (ramp[i][~inside] == 255).all()
        assert (batch.images[i][:, ~inside] == 0).all()
        torch.testing.assert_close(batch.images[i, 2][inside] * 255, torch.full((int(inside.sum()),), 200.0))


@pytest.mark.parametrize("factor", [0.5, 0.73, 1.0, 1.31, 2.0])
@pytest.mark.parametrize("size", [(90, 120), (121, 75)])
def test_a_crop_is_cut_from_the_whole_resized_image(size: tuple[int, int], factor: float) -> None:
    image = torch.randint(0, 256, (3, *size), generator=draw(1), dtype=torch.uint8)
    label = torch.randint(0, 256, size, generator=draw(2), dtype=torch.uint8)
    augment = WeakAugment(40, scale=(factor, factor), flip=0.0)
    cut = augment([image], [[label]], draw(9))
    target = [round(n * round(max(size) * factor) / max(size)) for n in size]
    whole = v2.resize(image.float() / 255, target, InterpolationMode.BILINEAR, antialias=True)
    nearest = v2.resize(label[None], target, InterpolationMode.NEAREST_EXACT)[0]
    rows, columns = min(40, target[0]), min(40, target[1])
    matches = [
        (y, x)
        for y in range(target[0] - rows + 1)
        for x in range(target[1] - columns + 1)
        if torch.equal(nearest[y : y + rows, x : x + columns], cut.maps[0][0, :rows, :columns])
    ]
    assert len(matches) == 1
    y, x = matches[0]
    expected = whole[:, y : y + rows, x : x + columns]
    # An image that shrinks is rounded to uint8 by torchvision's faster kernel.
    tolerance = 1e-4 if factor >= 1 else 1.01 / 255
    torch.testing.assert_close(cut.images[0, :, :rows, :columns], expected, rtol=0, atol=tolerance)


def test_a_small_image_is_padded_right_and_below() -> None:
    batch = weak((20, 30), WeakAugment(40, scale=(1.0, 1.0), flip=0.0))
    padding = torch.ones(40, 40, dtype=torch.bool)
    padding[:20, :30] = False
    assert torch.equal(batch.padding[0], padding)
    image = coordinates(20, 30)[0].float() / 255
    torch.testing.assert_close(batch.images[0, :, :20, :30], image)
    assert batch.images[0, :, padding].abs().max() == 0
    assert all((m[0][padding] == 255).all() for m in batch.maps)


def test_scale_is_uniform_on_the_long_side() -> None:
    """An image in a crop that holds it at any scale shows its size."""
    batch = weak((30, 60), WeakAugment(120), count=400)
    long = (~batch.padding).any(1).sum(1).float()
    short = (~batch.padding).any(2).sum(1).float()
    assert 30 <= long.min() < 33
    assert 117 < long.max() <= 120
    assert long.mean().item() == pytest.approx(75, abs=4)
    assert (short - long / 2).abs().max() <= 0.5


def test_half_of_the_images_are_flipped() -> None:
    batch = weak((40, 60), WeakAugment(32, scale=(1.0, 1.0)), count=400)
    flipped = batch.maps[0][:, 0, 0] > batch.maps[0][:, 0, 1]
    assert 160 < flipped.sum() < 240


def test_maps_keep_their_dtypes() -> None:
    image, columns, rows = coordinates(20, 30)
    maps = [[columns, rows.long(), columns.float() / 255]]
    batch = WeakAugment(40, scale=(1.0, 1.0), flip=0.0)([image], maps, draw())
    assert [m.dtype for m in batch.maps] == [torch.uint8, torch.int64, torch.float32]
    assert [m[0, 39, 39].item() for m in batch.maps] == [255, 255, 255]
    assert batch.maps[2][0, 0, 29].item() == pytest.approx(29 / 255)


def test_same_generator_state_same_views() -> None:
    image = torch.randint(0, 256, (3, 50, 70), generator=draw(1), dtype=torch.uint8)
    results = []
    for seed in (7, 7, 8):
        generator = draw(seed)
        batch = WeakAugment(32)([image] * 4, [[]] * 4, generator)
        strong = StrongAugment()(batch.images, generator)
        results.append((batch.images, strong, CutMix().boxes(4, 32, 32, generator)))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


def test_with_its_own_generator_an_image_does_not_depend_on_its_batch() -> None:
    images = [torch.randint(0, 256, (3, 50 + i, 70), generator=draw(i), dtype=torch.uint8) for i in range(6)]

    def views(chosen: list[int]) -> list[Tensor]:
        generators = [draw(100 + i) for i in chosen]
        batch = WeakAugment(32)([images[i] for i in chosen], [[]] * len(chosen), generators)
        strong = StrongAugment()(batch.images, generators)
        return [batch.images, strong, CutMix().boxes(len(chosen), 32, 32, generators)]

    together = views([0, 1, 2, 3, 4, 5])
    apart = zip(views([0, 1, 2]), views([3, 4, 5]), strict=True)
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(together, apart, strict=True))


def test_a_generator_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="2 generators for 3 images"):
        CutMix().boxes(3, 8, 8, [draw(), draw()])


QUIET = StrongAugment(jitter_p=0, gray_p=0, blur_p=0)


def photographs(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=draw(11)) * 0.8 + 0.1


def test_every_part_of_the_strong_view_can_be_off() -> None:
    images = photographs(4)
    before = images.clone()
    assert torch.equal(QUIET(images, draw()), images)
    StrongAugment(jitter_p=1, gray_p=1, blur_p=1)(images, draw())
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "augment", [replace(QUIET, jitter_p=0.3), replace(QUIET, gray_p=0.3), replace(QUIET, blur_p=0.3)]
)
def test_parts_come_as_often_as_they_should(augment: StrongAugment) -> None:
    images = photographs(400)
    changed = (augment(images, draw(2)) != images).flatten(1).any(1)
    assert 90 < changed.sum() < 150


def test_parts_come_independently() -> None:
    images = photographs(800)

    def changed(augment: StrongAugment) -> Tensor:
        return (augment(images, draw(2)) != images).flatten(1).any(1)

    jitter = changed(replace(QUIET, jitter_p=0.5))
    gray = changed(replace(QUIET, gray_p=0.5))
    blur = changed(replace(QUIET, blur_p=0.5))
    for first, second in ((jitter, gray), (gray, blur), (jitter, blur)):
        assert 150 < (first & second).sum() < 250


def test_gray_images_have_no_colour_and_their_luma() -> None:
    images = photographs(3)
    gray = StrongAugment(jitter_p=0, gray_p=1, blur_p=0)(images, draw())
    torch.testing.assert_close(gray, v2.rgb_to_grayscale(images, 3))


def test_sigmas_fill_their_range() -> None:
    dot = torch.zeros(200, 3, 33, 33)
    dot[:, :, 16, 16] = 1
    peaks = StrongAugment(jitter_p=0, gray_p=0, blur_p=1)(dot, draw())[:, 0, 16, 16]
    limits = gaussian_blur(dot[:2], [0.1, 2.0])[:, 0, 16, 16]
    assert peaks.max() <= limits[0]
    assert peaks.min() >= limits[1]
    assert peaks.max() > 0.95
    assert peaks.min() < 1.1 * limits[1]


def test_each_jitter_factor_stays_in_its_range_and_fills_it() -> None:
    gray = torch.full((300, 3, 4, 4), 0.4)
    only_brightness = StrongAugment(jitter_p=1, contrast=0, saturation=0, hue=0, gray_p=0, blur_p=0)
    factors = only_brightness(gray, draw())[:, 0, 0, 0] / 0.4
    assert 0.499 <= factors.min() < 0.51
    assert 1.49 < factors.max() <= 1.501
    red = torch.zeros(300, 3, 2, 2)
    red[:, 0] = 1
    only_hue = StrongAugment(jitter_p=1, brightness=0, contrast=0, saturation=0, gray_p=0, blur_p=0)
    turned = only_hue(red, draw())
    # A quarter of a circle each way from red: half red with full green, or with full blue.
    assert turned[:, 0].min().item() == pytest.approx(0.5, abs=0.02)
    assert turned[:, 1].max() > 0.9
    assert turned[:, 2].max() > 0.9


def test_jitter_is_the_four_operations_in_every_order() -> None:
    image = photographs(1)
    augment = StrongAugment(jitter_p=1, gray_p=0, blur_p=0)
    generator = draw(3)
    state = generator.get_state()
    views = augment(image.expand(240, -1, -1, -1), generator)
    generator.set_state(state)
    operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    seen: Counter[tuple[int, ...]] = Counter()
    for view in views:
        numbers = torch.rand(12, generator=generator, dtype=torch.float64)
        factors = [0.5 + n for n in numbers[1:4].tolist()] + [0.5 * numbers[4].item() - 0.25]
        order = tuple(numbers[5:9].argsort().tolist())
        expected = image
        for kind in order:
            expected = operations[kind](expected, torch.tensor([factors[kind]]))
        torch.testing.assert_close(view[None], expected)
        seen[order] += 1
    assert len(seen) == 24


def test_strong_views_stay_in_range() -> None:
    views = StrongAugment()(torch.rand(32, 3, 24, 24, generator=draw(1)), draw(2))
    assert views.dtype == torch.float32
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6


def sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return boxes.any(2).sum(1), boxes.any(1).sum(1)


def test_boxes_are_whole_rectangles_within_their_ranges() -> None:
    boxes = CutMix(p=1.0).boxes(400, 80, 80, draw(1))
    heights, widths = sides(boxes)
    area = boxes.sum((1, 2))
    assert torch.equal(area, heights * widths)
    share = area / 6400
    assert 0.016 < share.min() < 0.04
    assert 0.36 < share.max() <= 0.4
    assert share.mean().item() == pytest.approx(0.2, abs=0.02)
    aspect = heights / widths
    assert 0.26 < aspect.min() < 0.5
    assert 2.5 < aspect.max() < 3.9


def test_boxes_lie_anywhere_and_half_of_the_images_have_one() -> None:
    boxes = CutMix().boxes(600, 40, 40, draw(2))
    assert 250 < boxes.any((1, 2)).sum() < 350
    assert all(boxes.any(0).any(axis).all() for axis in (0, 1))
    assert not CutMix(p=0.0).boxes(20, 40, 40, draw(2)).any()


@pytest.mark.parametrize("size", [(20, 200), (200, 20), (5, 5)])
def test_boxes_fit_into_any_image(size: tuple[int, int]) -> None:
    boxes = CutMix(p=1.0, area=(0.3, 1.0)).boxes(100, *size, draw(3))
    heights, widths = sides(boxes)
    assert torch.equal(boxes.sum((1, 2)), heights * widths)
    assert heights.min() >= 1
    assert boxes.any(0).all()


def test_mixing_takes_the_other_inside_the_box() -> None:
    boxes = CutMix(p=1.0).boxes(3, 12, 12, draw(4))
    batch, partners = torch.zeros(3, 3, 12, 12), torch.ones(3, 3, 12, 12)
    mixed = CutMix().mix(batch, partners, boxes)
    assert torch.equal(mixed, boxes[:, None].expand(-1, 3, -1, -1).float())
    labels = CutMix().mix(batch[:, 0].long(), partners[:, 0].long() * 7, boxes)
    assert torch.equal(labels, boxes.long() * 7)


def test_normalise_by_channel() -> None:
    images = torch.full((2, 3, 1, 2), 0.5)
    out = normalise(images, torch.tensor([0.5, 0.25, 0.0]), torch.tensor([1.0, 0.5, 0.25]))
    torch.testing.assert_close(out[1, :, 0, 1], torch.tensor([0.0, 0.5, 2.0]))
