"""Work that follows corrections, in a thread: requests never wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Does the same work each time that it is asked to; several requests meanwhile are one.

    Args:
        work: what is done.
        name: of the thread.
        pause: seconds after each time, for what else needs the processor.
    """

    def __init__(self, work: Callable[[], object], name: str, pause: float = 0.0) -> None:
        self._work, self._name, self._pause = work, name, pause
        self._wanted, self._end = threading.Event(), threading.Event()

    def start(self) -> None:
        """Begin; the thread ends with the process, or by `stop`."""
        self.again()
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def again(self) -> None:
        """Do the work, or do it once more."""
        self._wanted.set()

    def stop(self) -> None:
        """End after the work that is being done."""
        self._end.set()
        self._wanted.set()

    def _run(self) -> None:
        while self._wanted.wait() and not self._end.is_set():
            self._wanted.clear()
            self._work()
            self._end.wait(self._pause)
