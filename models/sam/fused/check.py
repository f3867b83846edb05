"""Kernels against the eager path, both in the same precision, with float32 as the truth between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segray.models.precision import rounded
from segray.models.sam.decoder import MaskDecoder
from segray.models.sam.encoder import encode_images

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from segray.models.sam.fused.selection import FusedSam

_PROMPTS, _MARGIN, _SMALL = 48, 3.0, 1e-3


@torch.inference_mode()
def disagreement(sam: Sam, fused: FusedSam, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot be trusted, in a few words; None where they agree.

    An error is the root mean square of the difference from float32. That of the kernels may be as large as
    three times the eager path's, which is in the same precision, and a thousandth of the values' own.
    """
    generator = torch.Generator().manual_seed(0)
    side = sam.image_encoder.img_size
    image = torch.randn(1, 3, side, side, generator=generator).to(sam.device)
    truth = encode_images(sam.image_encoder, image)
    eager = encode_images(sam.image_encoder, image, rounded(sam.image_encoder, dtype))
    if problem := _compare("embeddings", truth, eager, fused.encode(image)):
        return problem
    points = torch.rand(_PROMPTS, 2, generator=generator, dtype=torch.float64).to(sam.device) * side
    truths = _masks(MaskDecoder(sam), truth[0], points)
    eagers = _masks(fused.decoder.eager, truth[0], points)
    decoder = fused.decoder
    ours = decoder.decode(truth[0], decoder.prompts(points), decoder.grid[0], 0.0)
    results = zip(("logits", "predicted IoU"), truths, eagers, ours, strict=True)
    return next(filter(None, (_compare(*result) for result in results)), None)


def _masks(decoder: Any, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    logits, iou = decoder.all_masks(decoder.image_tokens(embedding), decoder.prompts(points), decoder.grid[0])
    return logits, iou


def _compare(name: str, truth: Tensor, eager: Tensor, fused: Tensor) -> str | None:
    allowed = _MARGIN * rms(eager - truth) + _SMALL * rms(truth)
    error = rms(fused - truth)
    return None if error <= allowed else f"{name} are off by {error:.2g}, where {allowed:.2g} is allowed"


def rms(x: Tensor) -> float:
    """Root mean square."""
    return float(x.float().square().mean().sqrt())
