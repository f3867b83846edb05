"""Reduced precision: the names used in configurations, and modules with rounded weights."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from torch import nn

Precision = Literal["fp32", "bf16", "fp16"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def rounded(module: ModuleT, dtype: torch.dtype) -> ModuleT:
    """The module with its weights in `dtype`: the module itself for float32, else a copy.

    Weights are rounded instead of using autocast: activations between operations are then small as well, and
    norms and softmax compute in float32 internally either way.
    """
    return module if dtype == torch.float32 else copy.deepcopy(module).to(dtype)
