"""EoMT (Kerssies et al., CVPR 2025) as a source of masks: one forward, no prompts, no classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from segray.models.annotators.protocols import MaskModel
from segray.models.annotators.transformers_weights import Blueprint, PretrainedModel, square
from segray.models.architectures import check_side
from segray.models.masks import Segment, segment_from_mask
from segray.models.precision import DTYPES, Precision
from segray.models.sam.geometry import Frame, Rgb, Size, frame, upsample

_COCO = 133
ARCH: dict[str, dict[str, Any]] = {"eomt_large": {"num_labels": _COCO}}
_MASK, _OVERLAP = 0.5, 0.8
"""Of the model's own panoptic post-processing."""


class EomtModel(PretrainedModel, MaskModel):
    """An EoMT of transformers that was trained on panoptic masks of COCO.

    Args:
        network: the model.
    """

    options: ClassVar[frozenset[str]] = frozenset({"pred_iou_thresh"})

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        config: Any = network.config
        side = config.image_size
        self.size = check_side(side if isinstance(side, int) else max(side))

    @staticmethod
    def blueprint(name: str) -> Blueprint:
        """See `PretrainedModel`."""
        from transformers import EomtConfig, EomtForUniversalSegmentation

        return Blueprint(EomtForUniversalSegmentation, EomtConfig, ARCH[name])

    def source(self, device: str, options: Mapping[str, Any]) -> EomtMasks:
        """The segments whose score is `pred_iou_thresh` or more."""
        return EomtMasks(
            self._network.to(device), self.size, options["pred_iou_thresh"], options["precision"]
        )


class EomtMasks:
    """Disjoint segments, best first; their predicted IoU is the score of their class.

    Args:
        network: in evaluation mode, on its device.
        side: of its square input in pixels.
        threshold: least score of a segment.
        precision: of the network.
    """

    def __init__(self, network: nn.Module, side: int, threshold: float, precision: Precision) -> None:
        self._network, self._side, self._threshold = network, side, threshold
        self._dtype = DTYPES[precision]

    @torch.inference_mode()
    def generate(self, images: Sequence[Rgb], sizes: Sequence[Size] | None = None) -> list[list[Segment]]:
        """See `MaskSource`."""
        whole = [image.shape[:2] for image in images] if sizes is None else sizes
        return [self._segments(image, size) for image, size in zip(images, whole, strict=True)]

    def _segments(self, image: Rgb, size: Size) -> list[Segment]:
        f = frame(size[0], size[1], self._side)
        device = next(self._network.parameters()).device
        pixels = square(image, (f.input_height, f.input_width), self._side).to(device)
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            output = self._network(pixel_values=pixels)
        scores = output.class_queries_logits[0].float().softmax(-1)[:, :-1].amax(-1)
        no_object = output.class_queries_logits[0].argmax(-1) == output.class_queries_logits.shape[-1] - 1
        kept = torch.nonzero((scores >= self._threshold) & ~no_object)[:, 0]
        return disjoint(output.masks_queries_logits[0, kept].float(), scores[kept], f)


def disjoint(logits: Tensor, scores: Tensor, f: Frame) -> list[Segment]:
    """Each pixel to the mask with the highest score times probability; masks that lose too much are dropped.

    Args:
        logits: [K, h, w] over the model's square input.
        scores: [K].
        f: the image's frame.
    """
    if not len(scores):
        return []
    masks = upsample(logits, f).sigmoid()
    winner = (masks * scores[:, None, None]).argmax(0)
    segments = []
    for k in torch.argsort(scores, descending=True, stable=True).tolist():
        wanted = masks[k] >= _MASK
        own = wanted & (winner == k)
        area, most = int(own.sum()), int(wanted.sum())
        if area and area > _OVERLAP * most:
            segments.append(segment_from_mask(own.cpu().numpy().astype(np.bool_), float(scores[k])))
    return segments
