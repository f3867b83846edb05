"""The built-in network: the picture-book CLIP's image tower and a few convolutions for the edges."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from segray.models.builtin.arch import CLIP_ARCH
from segray.models.clip.weights import OPENAI_MEAN, OPENAI_STD
from segray.models.segmenters.base import Segmenter, resample
from segray.models.segmenters.tokens import clip_tower, token_maps

BLOCKS = (3, 7)
"""Of eight, counted from 0: shapes after the fourth block, things after the last."""

_WIDTH = 64
_STEM = (16, 32)
_GROUPS = 8


class BuiltinNetwork(Segmenter):
    """Token maps for what is in view, a stem at strides 2 and 4 for where it ends.

    Group and layer normalisation only: batches are tiny, and a network spread over several workers must
    compute what one worker computes. The stem starts at random and therefore belongs to the decoder, though
    `encode` runs it.

    Args:
        classes: number of output channels.
    """

    decoder: BuiltinDecoder
    perturbed = (0, 1, 2)
    mean = OPENAI_MEAN
    std = OPENAI_STD
    spare = re.compile(r"(?!visual\.)|visual\.proj$")
    # Measured: benchmarks/windows.py.
    crop_windows = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = clip_tower(CLIP_ARCH)
        self.decoder = BuiltinDecoder(CLIP_ARCH["vision_cfg"]["width"], classes)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """The stem's map at stride 4, and the tokens after `BLOCKS` at stride 16."""
        return (self.decoder.stem(images), *token_maps(self.encoder, images, BLOCKS))

    def decode(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits at stride 4, resampled to `size`."""
        return resample(self.decoder(maps), size)

    def official_key(self, key: str) -> str:
        """The name in a whole CLIP's state dict."""
        return f"visual.{key}"


class BuiltinDecoder(nn.Module):
    """The stem, and what joins its map with the tokens.

    Args:
        width: channels of the token maps.
        classes: number of output channels.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        first, second = _STEM
        self.stem = nn.Sequential(_conv(3, first, 3, 2), _conv(first, second, 3, 2), _conv(second, second, 3))
        self.project = _conv(len(BLOCKS) * width, _WIDTH, 1)
        self.gather = _conv(_WIDTH, _WIDTH, 3)
        self.join = _conv(_WIDTH + second, _WIDTH, 3)
        self.refine = _conv(_WIDTH, _WIDTH, 3)
        self.classifier = nn.Conv2d(_WIDTH, classes, 1)
        # Nearly equal logits: the first steps then learn the classes' shares, not to undo a random guess.
        with torch.no_grad():
            for parameter in self.classifier.parameters():
                parameter.mul_(0.1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Logits [B, classes, h, w] at the size of the stem's map."""
        edges, *tokens = maps
        things = self.project(torch.cat(tokens, 1))
        things = resample(things + self.gather(things), (edges.shape[-2], edges.shape[-1]))
        joined = self.join(torch.cat([things, edges], 1))
        return self.classifier(joined + self.refine(joined))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, outputs), nn.GELU())
