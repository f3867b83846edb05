"""SAM-HQ (Ke et al., NeurIPS 2023) as a source of masks: transformers' model, segray's grid and filters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from segray.models.annotators.protocols import POINT_OPTIONS, MaskModel
from segray.models.annotators.sam import on_grid
from segray.models.annotators.transformers_weights import Blueprint, PretrainedModel, square
from segray.models.architectures import check_side
from segray.models.masks import Segment
from segray.models.precision import DTYPES
from segray.models.sam.cpu_masks import segments_on_cpu
from segray.models.sam.geometry import Frame, Points, Rgb, Size, frame, point_grid
from segray.models.sam.postprocess import Candidates, Thresholds, concatenate, remove_small_regions

_POINTS_PER_BATCH = 64


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


class SamHq(PretrainedModel, MaskModel):
    """A SAM-HQ of transformers.

    Args:
        network: a `SamHQModel`.
    """

    options: ClassVar[frozenset[str]] = POINT_OPTIONS
    has_embedding: ClassVar[bool] = True

    def __init__(self, network: Any) -> None:
        self._network = network
        self.size = check_side(network.config.vision_config.image_size)

    @staticmethod
    def blueprint(name: str) -> Blueprint:
        """See `PretrainedModel`."""
        from transformers import SamHQConfig, SamHQModel

        return Blueprint(SamHQModel, SamHQConfig, ARCH[name])

    def source(self, device: str, options: Mapping[str, Any]) -> SamHqMasks:
        """The masks of a grid of points."""
        return SamHqMasks(self._network.to(device), self.size, options)

    @torch.inference_mode()
    def embedding(self, image: Rgb, grid: tuple[int, int], device: str) -> Tensor:
        """See `MaskModel`."""
        f = frame(image.shape[0], image.shape[1], self.size)
        pixels = square(image, (f.input_height, f.input_width), self.size).to(device)
        return on_grid(self._network.to(device).get_image_embeddings(pixels)[0][0], f, grid)


class SamHqMasks:
    """The masks of SAM's automatic generator without crops, decoded by transformers.

    Args:
        network: in evaluation mode, on its device.
        side: of its square input in pixels.
        options: see `SamHq.options`.
    """

    def __init__(self, network: Any, side: int, options: Mapping[str, Any]) -> None:
        self._network, self._side, self._options = network, side, options
        self._dtype = DTYPES[options["precision"]]
        self.grid = point_grid(options["points_per_side"])

    @torch.inference_mode()
    def generate(self, images: Sequence[Rgb], sizes: Sequence[Size] | None = None) -> list[list[Segment]]:
        """See `MaskSource`."""
        whole = [image.shape[:2] for image in images] if sizes is None else sizes
        return [self._segments(image, size) for image, size in zip(images, whole, strict=True)]

    def _segments(self, image: Rgb, size: Size) -> list[Segment]:
        height, width = size
        f, window = frame(height, width, self._side), (0, 0, width, height)
        candidates = concatenate(list(self._candidates(image, f)))
        found = list(segments_on_cpu(candidates, f, window, (height, width), self._limits()))
        least = self._options["min_mask_region_area"]
        if least:
            found = remove_small_regions(found, height, width, least, self._options["box_nms_thresh"])
        return found

    def _candidates(self, image: Rgb, f: Frame) -> Iterator[Candidates]:
        """The confident masks of each chunk of prompts, on the CPU."""
        device = next(self._network.parameters()).device
        pixels = square(image, (f.input_height, f.input_width), self._side).to(device)
        step = self._options["points_per_batch"] or _POINTS_PER_BATCH
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            embedding, maps = self._network.get_image_embeddings(pixels)
            image_side = {"image_embeddings": embedding, "intermediate_embeddings": maps}
            for start in range(0, len(self.grid), step):
                yield self._decoded(image_side, self.grid[start : start + step], f)

    def _decoded(self, image_side: dict[str, Tensor], grid: Points, f: Frame) -> Candidates:
        """The confident masks of points [P, 2] on the unit square."""
        device = image_side["image_embeddings"].device
        points = torch.from_numpy(grid * [[f.input_width, f.input_height]]).float().to(device)[None, :, None]
        labels = torch.ones(points.shape[:3], dtype=torch.int64, device=device)
        output = self._network(**image_side, input_points=points, input_labels=labels, multimask_output=True)
        logits, iou = output.pred_masks[0].flatten(0, 1), output.iou_scores[0].flatten().float()
        kept = torch.nonzero(iou > self._options["pred_iou_thresh"])[:, 0]
        in_image = torch.from_numpy(grid * [[f.width, f.height]])
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
