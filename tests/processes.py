"""Commands as processes of their own, and the Ray workers that work for them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PATIENCE_S = 500.0
"""How long to wait for what must happen; only a hang comes near it."""

_RUN = "SEGRAY_TEST_RUN"
_AGENTS = "ray::DashboardAgent", "ray::RuntimeEnvAgent"


@dataclass(frozen=True)
class Finished:
    """A process that has ended: exit status (negative: the signal that ended it) and its output."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The lines that the command line itself wrote to stderr."""
        return [line for line in self.err.splitlines() if line.startswith("segray: ")]


class Process:
    """A command in a process group of its own, as a terminal starts it.

    Its output goes to files: pipes would stay open as long as any process that it leaves behind.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        token = secrets.token_hex(8)
        self._mark = f"{_RUN}={token}".encode()
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err, ctrl_c_is_heard():
            self._process = subprocess.Popen(
                command,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                cwd=REPOSITORY,
                env={**environment, "OMP_NUM_THREADS": "1", _RUN: token},
                process_group=0,
            )
        self.pid = self._process.pid

    def wait(self) -> Finished:
        """Until it ends by itself."""
        code = self._process.wait(PATIENCE_S)
        return Finished(code, self._out.read_text(), self._err.read_text())

    def kill(self) -> Finished:
        """SIGKILL to this one process, none of its children."""
        self._process.kill()
        return self.wait()

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def wait_for(self, condition: Callable[[], bool], *, or_end: bool = False) -> None:
        """Until the condition holds; the process must still run then, unless its end is as good."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            ended = self._process.poll() is not None
            if ended and or_end:
                return
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"the condition did not come true; stderr:\n{self._err.read_text()}")
            time.sleep(0.02)

    def wait_for_workers(self) -> None:
        """Until no worker that a killed driver has left behind is at work.

        Ray's agents look for their head for a minute, and a worker that was being started looks for its
        raylet for half a minute; neither has anything to do.
        """
        deadline = time.monotonic() + PATIENCE_S
        while left := self._workers():
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.1)

    def kill_worker(self, name: str) -> bool:
        """SIGKILL to a Ray worker of this run whose process title has this name, if there is one."""
        for pid in self._workers(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def clear(self) -> None:
        """End what is left of it, however the test went."""
        if self._process.poll() is None:
            _end(self.pid)
        for pid in _processes(self._mark):
            if pid != self.pid:
                _end(pid)
        self._process.wait(PATIENCE_S)

    def _workers(self, name: str = "") -> list[int]:
        return [pid for pid in _processes(self._mark) if _is_worker(pid, name)]


@contextmanager
def ctrl_c_is_heard() -> Iterator[None]:
    """Processes that start within it handle SIGINT, though a shell started the tests in the background.

    Not by `preexec_fn`: for that Python forks, and after a fork gRPC in this process may wait forever.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _processes(mark: bytes) -> list[int]:
    """Processes with a mark in their environment."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if mark in _environment(pid)]


def _environment(pid: int) -> list[bytes]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def _is_worker(pid: int, name: str) -> bool:
    with suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_text()
        return title.startswith("ray::") and not title.startswith(_AGENTS) and name in title
    return False


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def started(
    arguments: list[str],
    log: Path,
    *,
    module: str = "segray.pipelines.cli",
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Process]:
    """`segray COMMAND ...` as a process, or another module that is run like it."""
    inherited = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    process = Process([sys.executable, "-m", module, *arguments], log, inherited)
    try:
        yield process
    finally:
        process.clear()
