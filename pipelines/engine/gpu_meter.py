"""How busy a worker's GPU is: a thread asks the driver now and then."""

from __future__ import annotations

import threading

EVERY_S = 0.5
"""The driver averages over about as long."""


class GpuMeter:
    """Samples of the share of time in which this process's GPU computes; none without nvidia-ml-py."""

    def __init__(self) -> None:
        self._lock, self._busy, self._samples = threading.Lock(), 0.0, 0
        threading.Thread(target=self._watch, name="segray-gpu", daemon=True).start()

    def take(self) -> tuple[float, int]:
        """The sum and the number of the samples since the last call."""
        with self._lock:
            taken = self._busy, self._samples
            self._busy, self._samples = 0.0, 0
        return taken

    def _watch(self) -> None:
        pause = threading.Event()
        while (share := utilisation()) is not None:
            with self._lock:
                self._busy, self._samples = self._busy + share, self._samples + 1
            pause.wait(EVERY_S)


def utilisation() -> float | None:
    """The share of the last moments in which the GPU computed anything, from 0 to 1; None: unknown."""
    import torch

    try:
        return torch.cuda.utilization() / 100
    except Exception:  # noqa: BLE001  no driver, no package, no permission: nothing of it may end a run
        return None
