"""Threads and memory of a worker that computes on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def available_cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def keep_thread_count() -> Iterator[None]:
    """Restore the number of threads that torch computes on in this thread."""
    import torch

    count = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(count)


def use_threads(count: int) -> None:
    """Let this thread compute on `count` cores.

    Ray constructs an actor in one thread and calls it in another, and OpenMP keeps the number per thread: a
    number set in the constructor leaves the calls on one core, though torch reports the requested number.
    """
    import torch

    torch.set_num_threads(count)


def reuse_freed_memory() -> None:
    """Keep the memory that this process frees, up to 256 MiB per thread, for the next computation.

    By default, threads other than the first return the tensors of each operation to the system, and the next
    operation faults every page in again: up to 20,000 faults per image, a tenth of the time. Without glibc,
    nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # 32 MiB is the most that glibc accepts, and the limit of its own adaptive threshold.
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)
