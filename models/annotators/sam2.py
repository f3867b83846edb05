"""SAM 2.1 (Ravi et al., 2024) as a source of masks: transformers' model, segray's own grid and filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from segray.models.annotators.protocols import POINT_OPTIONS, MaskModel
from segray.models.annotators.transformers_weights import load_pretrained, square
from segray.models.architectures import check_side
from segray.models.masks import Segment
from segray.models.precision import DTYPES
from segray.models.sam.cpu_masks import segments_on_cpu
from segray.models.sam.geometry import Frame, Rgb, Size, point_grid
from segray.models.sam.postprocess import Candidates, Thresholds, concatenate, remove_small_regions
from segray.models.weights import Checkpoint

_POINTS_PER_BATCH = 64


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


class Sam2(MaskModel):
    """A SAM 2.1 of transformers.

    Args:
        network: a `Sam2Model`.
    """

    options: ClassVar[frozenset[str]] = POINT_OPTIONS

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        config: Any = network.config
        self.size = check_side(config.prompt_encoder_config.image_size)

    @classmethod
    def load(cls, name: str, checkpoint: Checkpoint) -> Self:
        """See `MaskModel`; the tensors that only videos need are not loaded."""
        from transformers import Sam2Config, Sam2Model

        return cls(load_pretrained(Sam2Model, Sam2Config, ARCH[name], checkpoint, name))

    def source(self, device: str, options: Mapping[str, Any]) -> Sam2Masks:
        """The masks of a grid of points."""
        return Sam2Masks(self._network.to(device), self.size, options)


class Sam2Masks:
    """The masks of SAM 2's automatic generator without crops, whose filters are those of SAM 1.

    Args:
        network: in evaluation mode, on its device.
        side: of its square input in pixels.
        options: see `Sam2.options`.
    """

    def __init__(self, network: nn.Module, side: int, options: Mapping[str, Any]) -> None:
        self._network: Any = network
        self._side, self._options = side, options
        self._dtype = DTYPES[options["precision"]]
        self.grid = point_grid(options["points_per_side"])

    @torch.inference_mode()
    def generate(self, images: Sequence[Rgb], sizes: Sequence[Size] | None = None) -> list[list[Segment]]:
        """See `MaskSource`."""
        whole = [image.shape[:2] for image in images] if sizes is None else sizes
        return [self._segments(image, size) for image, size in zip(images, whole, strict=True)]

    def _segments(self, image: Rgb, size: Size) -> list[Segment]:
        height, width = size
        candidates = concatenate(list(self._candidates(image, size)))
        f = self._frame(size, candidates.logits.shape[1])
        found = list(segments_on_cpu(candidates, f, (0, 0, width, height), (height, width), self._limits()))
        least = self._options["min_mask_region_area"]
        if least:
            found = remove_small_regions(found, height, width, least, self._options["box_nms_thresh"])
        return found

    def _candidates(self, image: Rgb, size: Size) -> list[Candidates]:
        """The confident masks of each chunk of prompts, on the CPU."""
        network = self._network
        device = next(network.parameters()).device
        filled = self._filled(size)
        pixels = square(image, filled, self._side).to(device)
        step = self._options["points_per_batch"] or _POINTS_PER_BATCH
        parts = []
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            embeddings = self._embeddings(pixels)
            for start in range(0, len(self.grid), step):
                grid = torch.from_numpy(self.grid[start : start + step])
                points = (grid * torch.tensor([[filled[1], filled[0]]])).float().to(device)
                in_image = grid * torch.tensor([[size[1], size[0]]])
                parts.append(self._decoded(embeddings, points, in_image))
        return parts

    def _filled(self, size: Size) -> tuple[int, int]:  # noqa: ARG002  other families keep the aspect ratio
        """Height and width that an image of this size has in the input: it is stretched to the square."""
        return self._side, self._side

    def _frame(self, size: Size, samples: int) -> Frame:
        """How logits go to the image: straight, as the input is the whole image."""
        return Frame(size[0], size[1], samples, samples, samples)

    def _embeddings(self, pixels: Tensor) -> dict[str, Any]:
        """What the decoder needs of an image."""
        return {"image_embeddings": self._network.get_image_embeddings(pixels)}

    def _decoded(self, embeddings: dict[str, Any], points: Tensor, in_image: Tensor) -> Candidates:
        """The confident masks of points [P, 2], in pixels of the input and of the image."""
        points = points[None, :, None]
        labels = torch.ones(points.shape[:3], dtype=torch.int64, device=points.device)
        output = self._network(**embeddings, input_points=points, input_labels=labels, multimask_output=True)
        logits, iou = output.pred_masks[0].flatten(0, 1), output.iou_scores[0].flatten().float()
        kept = torch.nonzero(iou > self._options["pred_iou_thresh"])[:, 0]
        prompt = kept.cpu() // output.iou_scores.shape[2]
        return Candidates(logits[kept].float().cpu(), iou[kept].cpu(), in_image[prompt])

    def _limits(self) -> Thresholds:
        options = self._options
        return Thresholds(
            0.0,
            options["stability_score_offset"],
            options["stability_score_thresh"],
            options["box_nms_thresh"],
            options["pred_iou_thresh"],
        )
