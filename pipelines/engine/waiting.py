"""Print what a command waits for, where nothing else is printed for a while."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from types import TracebackType

AFTER_S, EVERY_S = 10.0, 30.0
"""Seconds of silence before the first line, and between two lines."""


class Waiting:
    """Within it, a line on stderr says what the command waits for, if it waits long.

    Args:
        what: what it waits for, as in "waiting for {what}".
        after: seconds of silence before the first line.
        every: seconds between two lines.
    """

    def __init__(self, what: str, *, after: float = AFTER_S, every: float = EVERY_S) -> None:
        self.what = what
        self._after, self._every = after, every
        self._ended, self._stderr = threading.Event(), -1
        self._thread = threading.Thread(target=self._watch, name="segray-waiting", daemon=True)

    def __enter__(self) -> Waiting:
        self._stderr = _stderr()
        self.heard()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._stderr >= 0:
            os.close(self._stderr)

    def heard(self, what: str | None = None) -> None:
        """Something came or was printed: the silence starts again, perhaps with another wait."""
        now = time.monotonic()
        self.what = self.what if what is None else what
        self._since, self._next = now, now + self._after

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, self._next - time.monotonic())):
            now = time.monotonic()
            if now >= self._next:
                self._next = now + self._every
                self._print(f"waiting for {self.what} ({now - self._since:.0f} s)\n")

    def _print(self, line: str) -> None:
        if self._stderr >= 0:
            # A terminal may show a line of progress there, which has no end.
            start = "\r\033[K" if os.isatty(self._stderr) else ""
            os.write(self._stderr, f"{start}{line}".encode())
        else:
            sys.stderr.write(line)


def _stderr() -> int:
    """A duplicate of stderr, which stays when Ray's greeting is caught; -1 if stderr is not a file."""
    try:
        sys.stderr.flush()
        return os.dup(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
        return -1
