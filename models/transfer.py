"""Asynchronous copies between host and GPU memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor in pinned memory for a GPU; unchanged for any other device."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device; to a GPU asynchronously."""
    return pinned(tensor, device).to(device, non_blocking=True)


class DeviceToHostCopy:
    """An asynchronous copy of a tensor to the CPU, queued behind the work that computes it."""

    def __init__(self, tensor: Tensor) -> None:
        self._event = None
        if tensor.device.type != "cuda":
            self._host = tensor.cpu()
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def wait(self) -> Tensor:
        """Wait for the copy and return the tensor on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._host


def prefetch(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """Iterate `depth` items ahead, so that asynchronous work of later items runs while one is used."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > depth:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
