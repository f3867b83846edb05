"""Reduced precision: what a configuration calls it, and modules with rounded weights."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def rounded(module: Any, dtype: torch.dtype) -> Any:
    """The module with its weights in `dtype`: itself for float32, else a copy.

    Weights are rounded rather than operations autocast: what lies between two operations is small then, too,
    and a norm or a softmax computes in float32 inside either way.
    """
    return module if dtype == torch.float32 else copy.deepcopy(module).to(dtype)
