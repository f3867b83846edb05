"""EfficientNet-Lite (Google, Apache-2.0) with a feature pyramid: a network that a laptop trains offline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segray.models.segmenters.base import Segmenter, Triple, resample
from segray.models.segmenters.fpn import FPNHead

_WIDTH = 96
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


class EfficientNetLite(Segmenter):
    """Maps at strides 4, 8, 16 and 32 of a timm EfficientNet-Lite, and a feature pyramid.

    The weights are TensorFlow's, whose "SAME" padding the `tf_` models of timm have. Batch normalisation
    keeps the statistics and factors of the weights, so that each image is treated alone: batches are tiny,
    and several workers must compute what one computes. From random weights it therefore learns little.

    Args:
        backbone: a timm name, such as `tf_efficientnet_lite0`.
        classes: number of output channels.
    """

    encoder: Any
    perturbed = (0, 1, 2, 3)
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)
    spare = re.compile(r"(conv_head|bn2|classifier)\.|.*num_batches_tracked$")

    def __init__(self, backbone: str, classes: int) -> None:
        super().__init__()
        import timm
        from timm.layers import Conv2dSame, freeze_batch_norm_2d

        encoder = timm.create_model(backbone, features_only=True, out_indices=(1, 2, 3, 4))
        self.encoder = freeze_batch_norm_2d(encoder)
        for name, module in list(self.encoder.named_modules()):
            if isinstance(module, Conv2dSame):
                self.encoder.set_submodule(name, HalvingConv(module))
        self.decoder = FPNHead(encoder.feature_info.channels(), _WIDTH, classes)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Four maps at strides 4, 8, 16 and 32."""
        return tuple(self.encoder(images))

    def decode(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits at stride 4, resampled to `size`."""
        return resample(self.decoder(maps), size)

    def official_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By timm's names; the files of the PyPI packages number the blocks through."""
        if "_conv_stem.weight" not in state:
            return dict(state)
        blocks = [
            (f"blocks.{i}.{j}", _EXPANDED if hasattr(block, "conv_pwl") else _PLAIN)
            for i, stage in enumerate(self.encoder.blocks)
            for j, block in enumerate(stage)
        ]
        return {_timm_name(key, blocks): value for key, value in state.items()}


class HalvingConv(nn.Conv2d):
    """TensorFlow's "SAME" convolution of stride 2, whose padding depends on the parity of the sides.

    It is computed with integers alone, as suits the recording of a graph for images of any size.

    Args:
        like: of stride 2, with an odd kernel; its weights are taken.
    """

    def __init__(self, like: nn.Conv2d) -> None:
        assert like.stride == (2, 2)
        assert like.kernel_size[0] == like.kernel_size[1]
        super().__init__(
            like.in_channels,
            like.out_channels,
            (like.kernel_size[0], like.kernel_size[1]),
            stride=2,
            groups=like.groups,
            bias=like.bias is not None,
        )
        self.weight, self.bias = like.weight, like.bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ceil(H / 2), ceil(W / 2)]."""
        # The parity of a side, in words with which the side itself drops out of the size of the padded map:
        # in graphs for any size, a size after five layers would name its side 32 times, and be slow to load.
        vertical, horizontal = (
            self.kernel_size[0] - 2 + 2 * ((side + 1) // 2) - side for side in x.shape[-2:]
        )
        left, top = horizontal // 2, vertical // 2
        return super().forward(F.pad(x, (left, horizontal - left, top, vertical - top)))


def _timm_name(key: str, blocks: list[tuple[str, dict[str, str]]]) -> str:
    """A key of a package's file in timm's words; one that the network has no place for as it is."""
    block = re.fullmatch(r"_blocks\.(\d{1,3})\.(\w+)\.(\w+)", key)
    if block is None:
        layer, _, tensor = key.partition(".")
        return f"{_OUTER.get(layer, layer)}.{tensor}"
    number, layer, tensor = int(block[1]), block[2], block[3]
    if number >= len(blocks) or layer not in blocks[number][1]:
        return key
    place, names = blocks[number]
    return f"{place}.{names[layer]}.{tensor}"
