"""Tensors in closed form on which the public code of UniMatch and UniMatch V2 was run, and a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.models.segmenters.tiny_segmenter import TinySegmenter

SIDE, CLASSES, IMAGES = 8, 3, 4
TAU = 0.5


@dataclass(frozen=True)
class PublicCase:
    """A step of four labelled and four unlabelled images of 8 x 8 pixels, in float64.

    Attributes:
        network: without batch statistics.
        labelled: [4, 3, 8, 8], with `mask` [4, 8, 8], 255 where ignored.
        weak: [4, 3, 8, 8].
        unmixed: two strong views like `weak`, without CutMix.
        boxes: of each strong view, bool [4, 8, 8]: pixels from the partner.
        padding: bool [4, 8, 8].
        feature: factors on both maps for the feature view, [4, D, 1, 1].
        pair: the same for each strong view (UniMatch V2).
        tau: the confidence threshold.
    """

    network: TinySegmenter
    labelled: Tensor
    mask: Tensor
    weak: Tensor
    unmixed: tuple[Tensor, Tensor]
    boxes: tuple[Tensor, Tensor]
    padding: Tensor
    feature: tuple[Tensor, Tensor]
    pair: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    tau: float = TAU


def wave(*shape: int, step: float) -> Tensor:
    """Numbers in -1..1 that do not repeat."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) * step).sin().view(shape)


def case() -> PublicCase:
    """The same values on every machine; no random number is drawn."""
    network = TinySegmenter(CLASSES).double()
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(wave(*parameter.shape, step=1.7 + 0.31 * number) * 1.5)
    size = (IMAGES, SIDE, SIDE)
    weak = wave(IMAGES, 3, SIDE, SIDE, step=0.37)
    boxes = torch.zeros(2, *size, dtype=torch.bool)
    boxes[0, 0, 1:5, 2:7], boxes[0, 1, 3:8, :4], boxes[0, 3, :, 5:] = True, True, True
    boxes[1, 1, 2:4], boxes[1, 2, 1:7, 1:7] = True, True
    padding = torch.zeros(size, dtype=torch.bool)
    padding[1, 6:], padding[2, :, 7:] = True, True
    mask = (wave(*size, step=0.91) * 1.5 + 1.5).long()
    mask[0, :2], mask[3, 4, 4:] = 255, 255
    factors = [(wave(IMAGES, 6, 1, 1, step=s) > 0).double() * 2 for s in (0.77, 1.23, 0.53, 1.91)]
    whole = torch.tensor([True, False, False, True])[:, None, None, None]
    first = torch.where(whole, 1.0, factors[2]), torch.where(whole, 1.0, factors[3])
    return PublicCase(
        network=network,
        labelled=wave(IMAGES, 3, SIDE, SIDE, step=0.59),
        mask=mask,
        weak=weak,
        unmixed=(
            weak * 0.8 + 0.1 * wave(*weak.shape, step=2.3),
            weak * 1.1 - 0.2 * wave(*weak.shape, step=2.9),
        ),
        boxes=(boxes[0], boxes[1]),
        padding=padding,
        feature=(factors[0], factors[1]),
        pair=(first, (2 - first[0], 2 - first[1])),
    )
