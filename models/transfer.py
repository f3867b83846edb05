"""Copies between this machine's memory and a GPU's that make neither wait for the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor in memory that a GPU reads by itself; as it is for any other device."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device; on a GPU the copy only queues."""
    return pinned(tensor, device).to(device, non_blocking=True)


class DeviceToHostCopy:
    """A tensor on its way to the CPU; the copy queues behind the work that makes it."""

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
        """The tensor on the CPU, once it is there."""
        if self._event is not None:
            self._event.synchronize()
        return self._host


def prefetch(items: Iterable[T], by: int = 1) -> Iterator[T]:
    """The items, each after the next `by` were taken: what those began goes on while one is waited for."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > by:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
