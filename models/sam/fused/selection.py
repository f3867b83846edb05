"""Whether the kernels are used: only where they agree with the eager path on this machine.

Compilers were seen to turn such kernels into wrong code without any fault. So each worker runs them on a
small random input when it starts (0.14 s with ViT-B on an H100, once they are compiled), and takes the eager
path, with one line in the log, where they disagree. The result is not stored: drivers and compilers change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segray.models.sam.fused.config import FusedConfig, configuration

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from segray.models.sam.fused.decoder import FusedDecoder

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FusedSam:
    """Both halves of a SAM, by kernels.

    Attributes:
        encode: float32 embeddings [B, C, h, w] of normalised float32 [B, 3, side, side].
        decoder: what `DeviceMasks` takes.
        prompts: that the decoder takes at a time.
    """

    encode: Callable[[Tensor], Tensor]
    decoder: FusedDecoder
    prompts: int


@torch.no_grad()
def fused_sam(sam: Sam, dtype: torch.dtype, threshold: float) -> FusedSam | None:
    """The kernels for a `segment_anything.modeling.Sam` on a GPU; None: the eager path has to do.

    Args:
        sam: on its device.
        dtype: of weights and operands.
        threshold: pred_iou_thresh.
    """
    if sam.device.type != "cuda" or dtype == torch.float32 or find_spec("triton") is None:
        return None
    from segray.models.sam.fused.check import disagreement

    try:
        config = configuration(torch.cuda.get_device_name(sam.device))
        fused = build(sam, dtype, threshold, config)
        problem = disagreement(sam, fused, dtype)
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise what they like
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    if problem is None:
        return fused
    _LOG.warning("SAM takes its eager path on %s: %s", torch.cuda.get_device_name(sam.device), problem)
    return None


@torch.no_grad()
def build(sam: Sam, dtype: torch.dtype, threshold: float, config: FusedConfig) -> FusedSam:
    """Without a check.

    Raises:
        ValueError: a model that is not built as the released ones.
    """
    from segray.models.sam.fused.decoder import FusedDecoder
    from segray.models.sam.fused.encoder import FusedEncoder

    encoder = FusedEncoder(sam.image_encoder, dtype, config.encoder)
    decoder = FusedDecoder(sam, dtype, threshold, config.decoder)
    return FusedSam(encoder, decoder, config.decoder.prompts)
