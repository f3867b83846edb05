"""SAM-HQ (Ke et al., NeurIPS 2023) as a source of masks: transformers' model, segray's filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor

from segray.models.annotators.sam2 import Sam2, Sam2Masks
from segray.models.annotators.transformers_weights import load_pretrained
from segray.models.architectures import check_side
from segray.models.sam.geometry import Frame, Size, frame
from segray.models.weights import Checkpoint


def _arch(width: int, depth: int, heads: int, last: tuple[int, ...]) -> dict[str, Any]:
    """Arguments of `SamHQConfig`; `last` are the blocks with global attention."""
    vision = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "global_attn_indexes": list(last),
    }
    return {"vision_config": vision, "mask_decoder_config": {"vit_dim": width}}


ARCH: dict[str, dict[str, Any]] = {
    "sam_hq_vit_b": _arch(768, 12, 12, (2, 5, 8, 11)),
    "sam_hq_vit_l": _arch(1024, 24, 16, (5, 11, 17, 23)),
    "sam_hq_vit_h": _arch(1280, 32, 16, (7, 15, 23, 31)),
}


class SamHq(Sam2):
    """A SAM-HQ of transformers, with the options of SAM 2.

    Args:
        network: a `SamHQModel`.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self.size = check_side(network.config.vision_config.image_size)

    @classmethod
    def load(cls, name: str, checkpoint: Checkpoint) -> Self:
        """See `MaskModel`."""
        from transformers import SamHQConfig, SamHQModel

        return cls(load_pretrained(SamHQModel, SamHQConfig, ARCH[name], checkpoint, name))

    def source(self, device: str, options: Mapping[str, Any]) -> SamHqMasks:
        """The masks of a grid of points."""
        return SamHqMasks(self._network.to(device), self.size, options)


class SamHqMasks(Sam2Masks):
    """As SAM 2's, but for the input: SAM 1's, whose long side fills the square."""

    def _filled(self, size: Size) -> tuple[int, int]:
        f = frame(size[0], size[1], self._side)
        return f.input_height, f.input_width

    def _frame(self, size: Size, samples: int) -> Frame:  # noqa: ARG002  SAM 1 enlarges logits to its input first
        return frame(size[0], size[1], self._side)

    def _embeddings(self, pixels: Tensor) -> dict[str, Any]:
        embedding, maps = self._network.get_image_embeddings(pixels)
        return {"image_embeddings": embedding, "intermediate_embeddings": maps}
