"""Reduced precision: the names used in configurations, and modules with rounded weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import nn

Precision = Literal["fp32", "bf16", "fp16"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

PrecisionOrAuto = Literal["auto", "fp32", "bf16", "fp16"]

TrainPrecision = Literal["fp32", "tf32", "bf16"]

PredictPrecision = Literal["fp32", "tf32", "bf16", "fp16"]

PredictPrecisionOrAuto = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def resolve_precision(choice: PrecisionOrAuto, device: str) -> Precision:
    """The choice, or what `auto` stands for: fp16 on a GPU ("cuda"), fp32 on a CPU.

    fp16 rather than bf16: of 32 images of the picture book, bf16 changed the number of masks of 19 %.
    """
    if choice != "auto":
        return choice
    return "fp16" if device == "cuda" else "fp32"


def labeller_precision(choice: Literal["auto", "fp32", "bf16"], device: str) -> Literal["fp32", "bf16"]:
    """The choice, or what `auto` stands for with a labeller: bf16 on a GPU ("cuda"), fp32 on a CPU.

    Not fp16: with fused attention it ruins SAM 3's image encoder (README of DART: cosine 0.058 with fp32).
    """
    if choice != "auto":
        return choice
    return "bf16" if device == "cuda" else "fp32"


def best_train_precision(device: str, *, has_bf16: bool) -> TrainPrecision:
    """What `auto` stands for in training and prediction on "cuda" or "cpu"; a GPU without bfloat16: TF32."""
    if device != "cuda":
        return "fp32"
    return "bf16" if has_bf16 else "tf32"


def device_precision(device: torch.device) -> TrainPrecision:
    """What `auto` stands for on a device of this process."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return best_train_precision(device.type, has_bf16=has_bf16)


def allow_tf32(allowed: bool) -> None:
    """Whether products and convolutions of float32 tensors on a GPU may round their operands to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def computing(precision: PredictPrecision | None, device: str) -> Iterator[None]:
    """Within it, networks on a device compute in a precision: 16 bits by autocast, TF32 on a GPU alone.

    Args:
        precision: of products and convolutions; None: as before.
        device: its type, "cuda" or "cpu".
    """
    if precision is None:
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    allow_tf32(precision == "tf32")
    dtype = DTYPES["fp16" if precision == "fp16" else "bf16"]
    try:
        with torch.autocast(device, dtype, enabled=precision in ("bf16", "fp16")):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def rounded(module: ModuleT, dtype: torch.dtype) -> ModuleT:
    """The module with its weights in `dtype`: the module itself for float32, else a copy.

    Weights are rounded instead of using autocast: activations between operations are then small as well, and
    norms and softmax compute in float32 internally either way.
    """
    return module if dtype == torch.float32 else copy.deepcopy(module).to(dtype)
