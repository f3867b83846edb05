"""Test-time augmentation: the probabilities of several views of an image, averaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from segray.models.segmenters.base import Segmenter, resample


@dataclass(frozen=True)
class Views:
    """The views that a prediction is the mean of.

    Attributes:
        flip: also the mirror image, left and right exchanged, at each scale.
        scales: sizes of the views, relative to the image's.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    @property
    def is_plain(self) -> bool:
        """Whether the image itself is the only view."""
        return self == PLAIN


PLAIN = Views()
"""The image itself, and nothing else."""


def logits_of_views(network: Segmenter, image: Tensor, views: Views) -> Tensor:
    """Logits [C, H, W], float32; of several views the log of the mean of their probabilities.

    Args:
        network: in evaluation mode.
        image: normalised, [1, 3, H, W].
        views: of the image.
    """
    if views.is_plain:
        logits: Tensor = network(image)[0].float()
        return logits
    total, count = None, 0
    for probabilities in _probabilities(network, image, views):
        total = probabilities if total is None else total + probabilities
        count += 1
    assert total is not None
    return (total / count).clamp(min=1e-12).log()


def _probabilities(network: Segmenter, image: Tensor, views: Views) -> Iterator[Tensor]:
    """[C, H, W] of each view, turned and resized back."""
    height, width = image.shape[-2:]
    for scale in views.scales:
        view = resample(image, (max(1, round(height * scale)), max(1, round(width * scale))))
        yield resample(network(view).float().softmax(1), (height, width))[0]
        if views.flip:
            mirrored = network(view.flip(-1)).float().softmax(1).flip(-1)
            yield resample(mirrored, (height, width))[0]
