"""Watches a process while it reads hostile input: files, connections, processes, memory and time."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segray.pipelines.io import decoder_process

MAX_BYTES = 1 << 30
MAX_CPU_S = 10.0
_GRACE_CPU_S = 5.0
"""Then the system ends the process, by its ticks, which are more than its time on a busy machine."""
_BRAKE_BYTES = 3 << 30
"""Where allocations fail, so that a bomb does not take the machine with it."""

_ONE_PATH = {
    *("os.mkdir", "os.mkfifo", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown"),
    "shutil.rmtree",
}
_TWO_PATHS = {"os.rename", "os.link", "os.symlink"}
_NETWORK = {
    *("socket.connect", "socket.bind", "socket.sendto"),
    *("socket.getaddrinfo", "socket.gethostbyname"),
}
_PROCESSES = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"),
    "pty.spawn",
}
_DECODER = "from segray.pipelines.io.decoder_process import serve"
"""Expensive images are decoded in a process of their own, which may be ended."""
_PRIVATE = ("/proc/self/environ", "/etc/passwd", "/etc/shadow")
_UNPICKLED = ("torch", "numpy", "collections", "_codecs", "copyreg", "segray")


@dataclass
class Watch:
    """What the process did that it must not do.

    Attributes:
        secret: a folder that nothing may be read from.
        writable: folders that may be written to.
        faults: one line each.
    """

    secret: str = ""
    writable: tuple[str, ...] = ()
    faults: list[str] = field(default_factory=list)
    _active: bool = False

    def install(self) -> None:
        """Begin to see events; a hook cannot be removed again."""
        sys.addaudithook(self._hook)

    @contextmanager
    def of(
        self,
        secret: Path,
        writable: Iterable[Path],
        max_cpu_s: float = MAX_CPU_S,
        max_bytes: int = MAX_BYTES,
    ) -> Iterator[None]:
        """Collect the faults of a block; the system ends the process if the block takes much too long."""
        self.secret = os.path.realpath(secret)
        self.writable = tuple(os.path.realpath(path) for path in writable)
        self.faults = []
        memory, began, decoder = _MemoryPeak(), time.process_time(), _DecoderCost()
        _limit_cpu(began + max_cpu_s + _GRACE_CPU_S)
        self._active = True
        try:
            yield
        finally:
            self._active = False
            seconds, grown = decoder.cost()
            costs = ("", time.process_time() - began, memory.grown()), ("the decoder ", seconds, grown)
            for who, seconds, grown in costs:
                if grown > max_bytes:
                    self.faults.append(f"{who}took {grown >> 20} MB")
                if seconds > max_cpu_s:
                    self.faults.append(f"{who}took {seconds:.0f} s of the processor")

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            self._opened(*args)
        elif event in _ONE_PATH:
            self._written(event, args[0], args[-1])
        elif event in _TWO_PATHS:
            self._written(event, args[1], -1)
            if event == "os.rename":
                self._written(event, args[0], -1)
        elif event in _NETWORK | _PROCESSES and _DECODER not in str(args[:2]):
            self._refuse(f"{event} {args[:2]!r:.200}")
        elif event == "pickle.find_class" and not str(args[0]).startswith(_UNPICKLED):
            self._refuse(f"unpickles {args[0]}.{args[1]}")

    def _opened(self, path: object, mode: str | None, flags: int) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        where = _real(path)
        if where.startswith(f"{self.secret}/") or where in _PRIVATE:
            self._refuse(f"reads {where}")
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes or set(mode or "") & set("wax+"):
            self._written("open", path, -1)

    def _written(self, event: str, path: object, folder: object) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        where = _real(path, folder)
        # A file without a name is made by opening its folder.
        inside = f"{where}/" if event == "open" else where
        if where != os.devnull and not inside.startswith(tuple(f"{root}/" for root in self.writable)):
            self._refuse(f"{event} {where}")

    def _refuse(self, fault: str) -> None:
        self.faults.append(fault)
        raise PermissionError(f"not in this test: {fault}")


def _real(path: str | bytes | os.PathLike[Any], folder: object = -1) -> str:
    name = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0 and not name.startswith("/"):
        name = f"/proc/self/fd/{folder}/{name}"
    try:
        return os.path.realpath(name)
    except (OSError, ValueError):
        return name


def brake() -> None:
    """From now on this process cannot take more than a few GB, and leaves no core file."""
    data = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")
    )
    limit = int(data.split()[1]) * 1024 + _BRAKE_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(seconds: float) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), hard))


class _MemoryPeak:
    """How far the resident memory of a process has grown since this object was made."""

    def __init__(self, pid: int | str = "self") -> None:
        # Resets the peak; without it, an earlier one hides those below it.
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._pid, self._before = pid, _status("VmRSS", pid)

    def grown(self) -> int:
        return _status("VmHWM", self._pid) - self._before


class _DecoderCost:
    """What the process that decodes images takes, whether it lives on, begins or is ended meanwhile."""

    def __init__(self) -> None:
        self._pid, self._ended = _decoder(), _ended_children()
        self._memory = _MemoryPeak(self._pid) if self._pid else None
        self._began = _cpu_seconds(self._pid) if self._pid else 0.0

    def cost(self) -> tuple[float, int]:
        """Seconds of the processor, and bytes."""
        pid, (seconds, peak) = _decoder(), _ended_children()
        ended, earlier_peak = seconds - self._ended[0], self._ended[1]
        if pid and pid == self._pid and self._memory:
            return _cpu_seconds(pid) - self._began, self._memory.grown()
        peak = peak if peak > earlier_peak else 0
        # What its own start takes is counted as well, about two seconds and 200 MB.
        return ended + (_cpu_seconds(pid) if pid else 0.0), max(peak, _status("VmHWM", pid) if pid else 0)


def _decoder() -> int:
    """The process that decodes images; 0 where there is none."""
    process = decoder_process.decoder._process
    return process.pid if process is not None and process.poll() is None else 0


def _ended_children() -> tuple[float, int]:
    """Seconds of the processor of all children that have ended, and the largest one's bytes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status(name: str, pid: int | str = "self") -> int:
    """Bytes, from what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
