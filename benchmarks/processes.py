"""Wall seconds of a command, and CPU seconds of all processes that it starts, whoever their parent is."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import ROOT

_MARK = "SEGRAY_BENCHMARK_RUN"
_INTERVAL_S = 0.05
_LINGER_S = 1.0
"""Processes of a cluster may outlive the command a little."""


@dataclass
class Usage:
    """What a command took.

    Attributes:
        wall: seconds to its end.
        first: seconds to its first result, or None.
        cpu: seconds of all its processes, less what each used in its last moment (`_INTERVAL_S` at most).
        processes: how many they were.
    """

    wall: float
    first: float | None
    cpu: float
    processes: int


@dataclass
class _Processes:
    """CPU seconds by process, of those whose environment has the mark.

    Linux adds a process's time to its parent's only if the parent waits for it, and Ray's do not: so each
    process is looked at while it lives.
    """

    mark: bytes
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    others: set[tuple[str, str]] = field(default_factory=set)

    def sample(self) -> None:
        """Look at all processes now."""
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                self._sample(folder.name)

    def _sample(self, pid: str) -> None:
        values = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        user, system, start = int(values[11]), int(values[12]), values[19]
        key = pid, start
        if key in self.others:
            return
        if key not in self.seconds and self.mark not in Path(f"/proc/{pid}/environ").read_bytes():
            # A process that was just forked has its new environment in a moment.
            if user + system > 1:
                self.others.add(key)
            return
        self.seconds[key] = (user + system) / os.sysconf("SC_CLK_TCK")


def run(command: Sequence[str], has_result: Callable[[], bool] = lambda: False) -> Usage:
    """Run a command to its end.

    Args:
        command: program and arguments.
        has_result: whether its first result is there.

    Raises:
        ValueError: the command failed, or this system has no /proc.
    """
    if not Path("/proc/self/environ").exists():
        raise ValueError("cannot measure other processes: this system has no /proc")
    token, first = secrets.token_hex(8), None
    processes = _Processes(f"{_MARK}={token}".encode())
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, _MARK: token}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None:
            processes.sample()
            if first is None and has_result():
                first = time.monotonic() - began
            time.sleep(_INTERVAL_S)
        wall = time.monotonic() - began
        message = process.stderr.read().decode() if process.stderr else ""
    if process.returncode:
        raise ValueError(f"{command} ended with status {process.returncode}: {message[-2000:].strip()}")
    while time.monotonic() < began + wall + _LINGER_S:
        processes.sample()
        time.sleep(_INTERVAL_S)
    return Usage(wall, first, sum(processes.seconds.values()), len(processes.seconds))
