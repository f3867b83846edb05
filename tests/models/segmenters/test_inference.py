from __future__ import annotations

import pytest
import torch

from segray.models.segmenters.inference import (
    LEAST_SIDE,
    Inference,
    Window,
    _spans,
    image_logits,
    normalised,
    predict,
    window_of,
)
from tests.models.segmenters.tiny_segmenter import TinySegmenter, tiny_segmenter


def picture(height: int, width: int) -> torch.Tensor:
    values = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(1))
    return values.to(torch.uint8)


def test_whole_image_is_normalised_by_the_networks_own_figures() -> None:
    network = tiny_segmenter().eval()
    image = picture(13, 17)
    mean = torch.tensor(network.mean)[:, None, None]
    std = torch.tensor(network.std)[:, None, None]
    expected = network(((image.float() / 255 - mean) / std)[None])[0]
    assert torch.equal(image_logits(network, image), expected)


def test_an_image_that_fits_the_window_is_one_pass() -> None:
    network = tiny_segmenter().eval()
    image = picture(30, 32)
    assert torch.equal(image_logits(network, image, Inference(Window(32, 0))), image_logits(network, image))


@pytest.mark.parametrize("size", [(256, 512), (512, 256), (257, 300), (96, 700)])
def test_windows_of_a_network_that_sees_little_give_the_whole_image(size: tuple[int, int]) -> None:
    network, image = TinyPointwise(3).eval(), picture(*size)
    whole = image_logits(network, image).log_softmax(0)
    assert torch.allclose(image_logits(network, image, Inference(Window(96, 0))), whole, atol=1e-5)


def test_windows_of_a_network_with_a_margin_give_the_whole_image() -> None:
    network, image = tiny_segmenter().eval(), picture(256, 384)
    whole = image_logits(network, image).log_softmax(0)
    assert torch.allclose(image_logits(network, image, Inference(Window(96, 0))), whole, atol=1e-5)
    found, expected = predict(network, image, Inference(Window(96, 0))), predict(network, image)
    assert torch.equal(found.label, expected.label)
    assert torch.allclose(found.confidence, expected.confidence, atol=1e-5)


def test_seams_are_blended() -> None:
    """A network that answers by where its window begins: without blending the answer would jump."""
    image = torch.zeros(3, 96, 960, dtype=torch.uint8)
    image[:] = torch.arange(960) * 255 // 960
    chance = image_logits(ByMean().eval(), image, Inference(Window(96, 0))).exp()[1]
    steps = (chance[:, 1:] - chance[:, :-1]).abs()
    windows = [ByMean()(normalised(image[:, :, x : x + 96], ByMean(), torch.device("cpu"))) for x in (0, 64)]
    jump = float((windows[1] - windows[0]).softmax(1)[0, 1, 0, 0] - 0.5)
    assert float(steps.max()) < jump / 8


def test_each_row_and_column_counts_once() -> None:
    for length in (33, 96, 97, 128, 160, 161, 1000):
        total = torch.zeros(length)
        for span in _spans(length, 96, torch.device("cpu")):
            assert span.begin % 32 == 0
            assert span.end - span.begin <= 96 + 31
            total[span.begin : span.end] += span.weight
        assert torch.allclose(total, torch.ones(length), atol=1e-5)


def test_large_images_go_through_windows_by_default() -> None:
    default = window_of(None, crop=321)
    assert default.takes_whole(500, 375)
    assert default.takes_whole(1024, 768)
    assert not default.takes_whole(3000, 4000)
    assert window_of(0, crop=321).takes_whole(3000, 4000)
    assert not window_of(64, crop=321).takes_whole(65, 20)


class TinyMemory(TinySegmenter):
    """A device on which images of more than so many pixels do not fit."""

    def __init__(self, largest: int) -> None:
        torch.manual_seed(0)
        super().__init__(3)
        self.largest, self.sizes = largest, list[int]()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(images.shape[-1] * images.shape[-2])
        if self.sizes[-1] > self.largest:
            raise torch.OutOfMemoryError
        return super().forward(images)


def test_without_memory_for_the_whole_windows_are_used_with_a_line() -> None:
    network, lines = TinyMemory(200 * 200).eval(), list[str]()
    image = picture(512, 640)
    found = predict(network, image, Inference(Window(512, None)), lines.append)
    assert lines == [
        f"not enough memory for an image of 640 x 512 pixels: it is predicted in windows of {side}"
        for side in (320, 160)
    ]
    assert torch.equal(found.label, predict(TinyMemory(10**9).eval(), image).label)


def test_without_memory_for_any_window_the_error_is_the_devices() -> None:
    network = TinyMemory(10).eval()
    with pytest.raises(torch.OutOfMemoryError):
        predict(network, picture(512, 640), warn=lambda _: None)
    assert min(network.sizes) >= LEAST_SIDE**2


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(TinySegmenter):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        predict(Broken(3).eval(), picture(512, 640))


class TinyPointwise(TinySegmenter):
    """Sees nothing but the pixel itself."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * torch.tensor([1.0, -2.0, 3.0])[:, None, None]


class ByMean(TinySegmenter):
    """Sees the whole window."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer = images.mean((1, 2, 3))[:, None, None].expand(images.shape[0], *images.shape[-2:])
        return torch.stack([torch.zeros_like(answer), answer], 1)
