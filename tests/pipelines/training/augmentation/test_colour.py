from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from segray.pipelines.training.augmentation.colour import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    blur_together,
    gaussian_blur,
    to_gray,
)

OPERATIONS = [
    (adjust_brightness, v2.adjust_brightness),
    (adjust_contrast, v2.adjust_contrast),
    (adjust_saturation, v2.adjust_saturation),
]


def random_images(count: int) -> Tensor:
    """Noise, with black, white, gray and pure colours among it."""
    images = torch.rand(count, 3, 17, 23, generator=torch.Generator().manual_seed(5))
    images[:, :, 0] = 0
    images[:, :, 1] = 1
    images[:, :, 2] = images[:, :1, 2]
    images[:, 0, 3], images[:, 1, 4], images[:, 2, 5] = 1, 1, 1
    images[:, 1, 6] = images[:, 0, 6]
    return images


@pytest.mark.parametrize(("ours", "theirs"), OPERATIONS)
def test_each_image_has_torchvisions_result_for_its_factor(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[[Tensor, float], Tensor]
) -> None:
    factors = [0.0, 0.5, 0.83, 1.0, 1.5]
    images = random_images(len(factors))
    changed = ours(images, torch.tensor(factors))
    for image, result, factor in zip(images, changed, factors, strict=True):
        torch.testing.assert_close(result, theirs(image, factor), rtol=0, atol=1e-6)
    assert not torch.equal(changed[0], changed[1])


def test_each_images_hue_turns_as_torchvisions() -> None:
    turns = [-0.5, -0.25, -0.1, 0.0, 0.07, 0.25, 0.5]
    images = random_images(len(turns))
    changed = adjust_hue(images, torch.tensor(turns))
    for image, result, turn in zip(images, changed, turns, strict=True):
        torch.testing.assert_close(result, v2.adjust_hue(image, turn), rtol=0, atol=1e-5)
    torch.testing.assert_close(changed[3], images[3], rtol=0, atol=1e-6)


def test_a_third_of_a_circle_turns_red_to_green() -> None:
    red = torch.tensor([1.0, 0, 0])[None, :, None, None]
    turned = adjust_hue(red, torch.tensor([1 / 3]))[0, :, 0, 0]
    torch.testing.assert_close(turned, torch.tensor([0.0, 1, 0]), rtol=0, atol=1e-5)


def test_gray_is_torchvisions() -> None:
    images = random_images(2)
    torch.testing.assert_close(to_gray(images), v2.rgb_to_grayscale(images))


def test_each_image_is_blurred_by_its_sigma() -> None:
    sigmas = [0.1, 0.5, 1.0, 1.34, 2.0]
    images = random_images(len(sigmas))
    blurred = gaussian_blur(images, sigmas)
    for image, result, sigma in zip(images, blurred, sigmas, strict=True):
        size = 2 * math.ceil(3 * sigma) + 1
        theirs = v2.gaussian_blur(image, [size, size], [sigma, sigma])
        torch.testing.assert_close(result, theirs, rtol=0, atol=1e-5)
    assert (blurred[-1] - images[-1]).abs().max() > 0.1


@pytest.mark.parametrize("sigmas", [[0.1, 0.5, 1.0, 1.34, 2.0], [2.0]])
def test_images_that_are_blurred_together_are_as_each_by_itself(sigmas: list[float]) -> None:
    images = random_images(len(sigmas))
    torch.testing.assert_close(
        blur_together(images, sigmas), gaussian_blur(images, sigmas), rtol=0, atol=1e-6
    )


def test_blur_of_an_image_smaller_than_the_kernel() -> None:
    image = torch.full((1, 3, 2, 1), 0.25)
    torch.testing.assert_close(gaussian_blur(image, [2.0]), image)
