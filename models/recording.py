"""Graphs of a network for other programs (ONNX, TorchScript, torch.export), which take images of any size."""

from __future__ import annotations

import torch
from torch import Tensor

_BICUBIC = -0.5
"""The coefficient of torch's antialiased bicubic resampling, which is Pillow's."""


def records_graph() -> bool:
    """Whether the operations are being recorded, for images of other sizes too.

    Then no branch may depend on a size.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def bicubic_weights(source: int, target: int, device: torch.device) -> Tensor:
    """float32 [target, source]: `F.interpolate(mode="bicubic", antialias=True)` of one axis, as a matrix.

    ONNX runtimes do not agree on that operation; all of them multiply matrices.

    Args:
        source: length of the axis.
        target: its new length; while a graph is recorded it may be symbolic.
        device: of the result.
    """
    wanted = torch.arange(target, device=device).float() + 0.5
    # The length as a tensor: as a number it would be a constant of the graph.
    scale = source / (wanted[-1] + 0.5)
    widest, centre = scale.clamp(min=1), wanted * scale
    place = torch.arange(source, device=device).float() + 0.5
    # Where torch cuts the kernel off, it is zero.
    weights = _cubic((place - centre[:, None]) / widest)
    return weights / weights.sum(1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel."""
    x, a = x.abs(), _BICUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resample_bicubic(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """`F.interpolate(grid, size, mode="bicubic", antialias=True)` of [B, C, h, w], for recorded graphs."""
    rows = bicubic_weights(grid.shape[-2], size[0], grid.device)
    columns = bicubic_weights(grid.shape[-1], size[1], grid.device)
    return rows @ grid @ columns.transpose(0, 1)
