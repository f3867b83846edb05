"""How a worker that computes on a CPU uses its process: threads and memory."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def use_threads(count: int) -> None:
    """Let this thread compute on `count` cores.

    Ray makes an actor in one thread and calls it in another, and OpenMP keeps the number by thread: what is
    set in the constructor leaves the calls on one core, though torch reports the number that was asked for.
    """
    import torch

    torch.set_num_threads(count)


def reuse_freed_memory() -> None:
    """Let this process keep the memory that it frees, up to 256 MiB a thread, for what it computes next.

    Threads other than the first give the tensors of each operation back to the system, and fault every page
    of the next one in anew: up to 20,000 faults a picture, and a tenth of the time. Where the C library is
    not glibc, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # 32 MiB is the most that glibc takes, and what its own adaptive threshold ends at.
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)
