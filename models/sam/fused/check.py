"""Kernels against the eager path, both in the same precision, with float32 as the truth between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from segray.models.sam.fused.selection import FusedSam
    from segray.models.sam.prompted import PromptedModel

_PROMPTS, _MARGIN, _SMALL = 48, 3.0, 1e-3


@torch.inference_mode()
def disagreement(model: PromptedModel, fused: FusedSam, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot be trusted, in a few words; None where they agree.

    An error is the root mean square of the difference from float32. That of the kernels may be as large as
    three times the eager path's, which is in the same precision, and a thousandth of the values' own.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, model.side, model.side, generator=generator).to(model.device)
    truth, eager = model.encoder(torch.float32)(image), model.encoder(dtype)(image)
    if problem := _compare("embeddings", truth, eager, fused.encode(image)):
        return problem
    whole = model.frame(model.side, model.side)
    points = torch.rand(_PROMPTS, 2, generator=generator, dtype=torch.float64) * whole.input_width
    points = points.to(model.device)
    truths = _masks(model.decoder(torch.float32), truth[0], points)
    eagers = _masks(fused.decoder.eager, truth[0], points)
    decoder, shared = fused.decoder, fused.decoder.image_tokens(truth[0])
    ours = decoder.decode(shared, decoder.prompts(points), decoder.grid[0], 0.0)
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
