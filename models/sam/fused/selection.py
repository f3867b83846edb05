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

from segray.models.sam.fused.config import configuration

if TYPE_CHECKING:
    from segray.models.sam.fused.decoder import FusedDecoder
    from segray.models.sam.prompted import PromptedModel

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FusedSam:
    """Both halves of a SAM, by kernels where there are any.

    Attributes:
        encode: see `PromptedModel.encoder`.
        decoder: what `DeviceMasks` takes.
        prompts: that the decoder takes at a time.
    """

    encode: Callable[[Tensor], Tensor]
    decoder: FusedDecoder
    prompts: int


@torch.no_grad()
def fused_sam(model: PromptedModel, dtype: torch.dtype, threshold: float) -> FusedSam | None:
    """The kernels for a model on a GPU; None: the eager path has to do.

    Args:
        model: on its device.
        dtype: of weights and operands.
        threshold: pred_iou_thresh.
    """
    if model.device.type != "cuda" or dtype == torch.float32 or find_spec("triton") is None:
        return None
    from segray.models.sam.fused.check import disagreement

    gpu = torch.cuda.get_device_name(model.device)
    try:
        fused = model.kernels(dtype, threshold, configuration(gpu))
        problem = disagreement(model, fused, dtype)
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise what they like
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    if problem is None:
        return fused
    _LOG.warning("SAM takes its eager path on %s: %s", gpu, problem)
    return None
