"""SAM 2.1 (Ravi et al., 2024) as a source of masks: transformers' network, the generator of `models.sam`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segray.models.annotators.protocols import POINT_OPTIONS, MaskModel
from segray.models.annotators.sam import CROP_OPTIONS, check_grids, on_grid
from segray.models.annotators.transformers_weights import Blueprint, PretrainedModel
from segray.models.architectures import check_side
from segray.models.sam.generator import MaskGenerator
from segray.models.sam.geometry import Frame, Rgb
from segray.models.sam2.model import PromptedSam2
from segray.models.sam2.original import transformers_state


def hiera(dims: Sequence[int], heads: int, **backbone: Any) -> dict[str, Any]:
    """Arguments of `Sam2Config` for a Hiera of these widths."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": dims[0],
        "num_attention_heads": heads,
        "embed_dim_per_stage": list(dims),
        "num_attention_heads_per_stage": [heads * 2**i for i in range(4)],
        **backbone,
    }
    channels = list(reversed(dims))
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": channels,
    }
    return {"vision_config": vision}


ARCH: dict[str, dict[str, Any]] = {
    "sam2.1_hiera_tiny": hiera((96, 192, 384, 768), 1),
    "sam2.1_hiera_small": hiera(
        (96, 192, 384, 768), 1, blocks_per_stage=[1, 2, 11, 2], global_attention_blocks=[7, 10, 13]
    ),
    "sam2.1_hiera_base_plus": hiera(
        (112, 224, 448, 896),
        2,
        blocks_per_stage=[2, 3, 16, 3],
        global_attention_blocks=[12, 16, 20],
        window_positional_embedding_background_size=[14, 14],
    ),
    "sam2.1_hiera_large": hiera(
        (144, 288, 576, 1152),
        2,
        blocks_per_stage=[2, 6, 36, 4],
        global_attention_blocks=[23, 33, 43],
        window_size_per_stage=[8, 4, 16, 8],
    ),
}


class Sam2(PretrainedModel, MaskModel):
    """A SAM 2.1 of transformers. Meta's own files are read too; what only videos need is left out.

    Args:
        network: a `Sam2Model`.
    """

    options: ClassVar[frozenset[str]] = POINT_OPTIONS | CROP_OPTIONS
    has_embedding: ClassVar[bool] = True

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        config: Any = network.config
        self.size = check_side(config.prompt_encoder_config.image_size)

    @staticmethod
    def blueprint(name: str) -> Blueprint:
        """See `PretrainedModel`."""
        from transformers import Sam2Config, Sam2Model

        return Blueprint(Sam2Model, Sam2Config, ARCH[name], transformers_state)

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """The grids of points."""
        check_grids(options)

    def source(self, device: str, options: Mapping[str, Any]) -> MaskGenerator:
        """The masks of SAM 2's automatic generator."""
        return MaskGenerator(PromptedSam2(self._network.to(device)), **options)

    @torch.inference_mode()
    def embedding(self, image: Rgb, grid: tuple[int, int], device: str) -> Tensor:
        """See `MaskModel`; the coarsest of its three maps."""
        prompted, (height, width) = PromptedSam2(self._network.to(device)), image.shape[:2]
        pixels = prompted.normalised([prompted.resized(image, (height, width))])
        maps = prompted.network.get_image_embeddings(pixels)[-1][0]
        return on_grid(maps, Frame(height, width, self.size, self.size, self.size), grid)
