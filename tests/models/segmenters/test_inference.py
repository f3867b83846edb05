from __future__ import annotations

import torch

from segray.models.segmenters.inference import image_logits
from tests.models.segmenters.tiny_segmenter import tiny_segmenter


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
    assert torch.equal(image_logits(network, image, window=32), image_logits(network, image))


def test_windows_cover_every_pixel_and_average_their_probabilities() -> None:
    network = tiny_segmenter().eval()
    image = picture(33, 50)
    logits = image_logits(network, image, window=32)
    assert logits.shape == (3, 33, 50)
    assert torch.allclose(logits.exp().sum(0), torch.ones(33, 50), atol=1e-5)
    # Row 0 and column 0 are in the first window only.
    first = image_logits(network, image[:, :32, :32])
    assert torch.allclose(logits[:, 0, 0].exp(), first[:, 0, 0].softmax(0), atol=1e-5)
    # Columns 18 and 21 begin windows too: (10, 20) is in rows 0..1 x columns 0, 18.
    tiles = [
        image_logits(network, image[:, y : y + 32, x : x + 32])[:, 10 - y, 20 - x]
        for y in (0, 1)
        for x in (0, 18)
    ]
    mean = torch.stack([tile.softmax(0) for tile in tiles]).mean(0)
    assert torch.allclose(logits[:, 10, 20].exp(), mean, atol=1e-5)
