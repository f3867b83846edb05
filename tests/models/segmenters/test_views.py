"""Test-time augmentation, and the precision of prediction."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segray.models.precision import PredictPrecision, computing, device_precision
from segray.models.segmenters.base import Segmenter
from segray.models.segmenters.inference import Inference, Window, image_logits, normalised, predict
from segray.models.segmenters.views import Views
from tests.models.segmenters.test_inference import TinyPointwise, picture
from tests.models.segmenters.tiny_segmenter import tiny_segmenter

CPU = torch.device("cpu")


def test_the_mirror_image_is_predicted_as_the_mirror_of_the_image() -> None:
    network, image = tiny_segmenter().eval(), picture(24, 40)
    flipped = Inference(views=Views(flip=True))
    mirrored = image_logits(network, image.flip(-1), flipped).flip(-1)
    assert torch.allclose(image_logits(network, image, flipped), mirrored, atol=1e-5)
    alone = image_logits(network, image.flip(-1)).flip(-1)
    assert not torch.allclose(image_logits(network, image), alone, atol=1e-3)


def test_probabilities_of_all_views_are_averaged() -> None:
    network, image = tiny_segmenter().eval(), picture(24, 40)
    whole = normalised(image, network, CPU)
    small = F.interpolate(whole, (12, 20), mode="bilinear", align_corners=False)
    views = [network(whole).softmax(1), F.interpolate(network(small).softmax(1), (24, 40), mode="bilinear")]
    found = predict(network, image, Inference(views=Views(scales=(1.0, 0.5))))
    mean = torch.cat(views).mean(0)
    assert torch.allclose(found.confidence, mean.amax(0), atol=1e-5)
    assert torch.equal(found.label, mean.argmax(0))


def test_windows_take_the_same_views() -> None:
    network, image = TinyPointwise(3).eval(), picture(96, 320)
    views = Views(flip=True, scales=(1.0,))
    whole = image_logits(network, image, Inference(views=views))
    assert torch.allclose(image_logits(network, image, Inference(Window(96, 0), views)), whole, atol=1e-4)


class _Recorder(Segmenter):
    """Keeps the type that its last product had."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = self.decoder = torch.nn.Conv2d(3, 2, 1)
        self.seen: torch.dtype | None = None

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (images,)

    def decode(self, maps: tuple[torch.Tensor, ...], size: tuple[int, int]) -> torch.Tensor:
        logits: torch.Tensor = self.decoder(maps[0])
        self.seen = logits.dtype
        return logits


def test_networks_compute_in_the_precision_that_was_chosen() -> None:
    network = _Recorder().eval()
    chosen: tuple[tuple[PredictPrecision | None, torch.dtype], ...]
    chosen = (("bf16", torch.bfloat16), ("fp32", torch.float32), (None, torch.float32))
    for precision, dtype in chosen:
        assert image_logits(network, picture(8, 8), Inference(precision=precision)).dtype == torch.float32
        assert network.seen == dtype
    assert device_precision(CPU) == "fp32"


def test_a_precision_ends_with_its_block() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with computing("tf32", "cpu"):
        assert torch.backends.cuda.matmul.allow_tf32
    with pytest.raises(ZeroDivisionError), computing("fp32", "cpu"):
        _ = 1 // 0
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
