"""SegFormer B0-B5 (Xie et al., NeurIPS 2021) on the modules of transformers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from segray.models.segmenters.base import Segmenter, at_least, resample

DECODER_WIDTH = 768
"""For all sizes, so that B5 with 21 classes is the 84.6 M network of the published comparisons."""

_INSTALL = 'pip install "segray[segformer]"'
_SMALLEST = 32  # the first stage's keys are reduced by 8 at stride 4: a smaller image leaves none

_OFFICIAL = (
    (r"^stages\.(\d+)\.patch_embeddings", r"encoder.patch_embeddings.\1"),
    (r"^stages\.(\d+)\.blocks", r"encoder.block.\1"),
    (r"^stages\.(\d+)\.layer_norm", r"encoder.layer_norm.\1"),
    (r"\.q_proj\.", ".self.query."),
    (r"\.k_proj\.", ".self.key."),
    (r"\.v_proj\.", ".self.value."),
    (r"\.o_proj\.", ".output.dense."),
    (r"\.sequence_reduction\.sequence_reduction\.", ".self.sr."),
    (r"\.sequence_reduction\.layer_norm\.", ".self.layer_norm."),
    (r"\.fc(\d)\.", r".dense\1."),
    (r"\.layernorm_before\.", ".layer_norm_1."),
    (r"\.layernorm_after\.", ".layer_norm_2."),
)


@dataclass(frozen=True)
class Variant:
    """Sizes of a Mix Transformer: channels and blocks of its four stages."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


_WIDE = (64, 128, 320, 512)
VARIANTS: dict[str, Variant] = {
    "b0": Variant((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": Variant(_WIDE, (2, 2, 2, 2)),
    "b2": Variant(_WIDE, (3, 4, 6, 3)),
    "b3": Variant(_WIDE, (3, 4, 18, 3)),
    "b4": Variant(_WIDE, (3, 8, 27, 3)),
    "b5": Variant(_WIDE, (3, 6, 40, 3)),
}


class SegFormer(Segmenter):
    """Maps at strides 4, 8, 16 and 32 and the all-MLP decoder, whose one BatchNorm is the paper's.

    Args:
        variant: a key of `VARIANTS`.
        classes: number of output channels.

    Raises:
        ValueError: transformers is not installed, or too old.
    """

    encoder: Any
    perturbed = (0, 1, 2, 3)
    spare = re.compile(r"(classifier|decode_head)\.")

    def __init__(self, variant: str, classes: int) -> None:
        super().__init__()
        modules = _transformers()
        sizes = VARIANTS[variant]
        config = modules.SegformerConfig(
            hidden_sizes=list(sizes.widths),
            depths=list(sizes.depths),
            decoder_hidden_size=DECODER_WIDTH,
            num_labels=classes,
        )
        self.encoder = modules.SegformerModel(config)
        self.decoder = modules.SegformerDecodeHead(config)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Four maps at strides 4, 8, 16 and 32."""
        # Not the model's own forward: it collects these maps by hooks under a lock, which cannot be compiled.
        maps, x = [], at_least(images, _SMALLEST)
        for stage in self.encoder.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)

    def decode(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits at stride 4, resampled to `size`.

        The head of transformers projects each map to 768 channels, enlarges it to stride 4, and mixes all
        3,072 channels there. All of that is linear, and mixing commutes with enlarging: here each map is
        projected and mixed by one product at its own size, and the four results are added up.
        """
        head: Any = self.decoder
        mixed = [_mixed(x, *projection) for x, projection in zip(maps, _projections(head), strict=True)]
        fine = (maps[0].shape[-2], maps[0].shape[-1])
        total = mixed[0]
        for part in mixed[1:]:
            total = total + resample(part, fine)
        return resample(head.classifier(head.dropout(head.activation(head.batch_norm(total)))), size)

    def official_key(self, key: str) -> str:
        """The name in NVIDIA's files on the hub, which keep the layout of transformers before 5.23."""
        for pattern, replacement in _OFFICIAL:
            key = re.sub(pattern, replacement, key)
        return f"segformer.{key}"


def _projections(head: Any) -> list[tuple[Tensor, Tensor]]:
    """For each map, weights [768, C] and biases [768] that project and mix it."""
    # The head joins the maps from coarse to fine.
    mixing = head.linear_fuse.weight.flatten(1).chunk(len(head.linear_projections), 1)[::-1]
    linear = [projection.proj for projection in head.linear_projections]
    return [(mix @ part.weight, mix @ part.bias) for mix, part in zip(mixing, linear, strict=True)]


def _mixed(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Maps [B, C, h, w] projected to [B, 768, h, w]."""
    tokens = F.linear(maps.flatten(2).transpose(1, 2), weight, bias)
    return tokens.transpose(1, 2).unflatten(2, maps.shape[2:])


def _transformers() -> ModuleType:
    try:
        from transformers.models.segformer import modeling_segformer
    except ImportError as error:
        raise ValueError(f"SegFormer needs the package transformers: {_INSTALL}") from error
    if not hasattr(modeling_segformer, "SegformerStage"):
        raise ValueError(f"SegFormer needs transformers 5.23 or newer: {_INSTALL}")
    return modeling_segformer
