"""Who holds a run lock: the content of the lock file, and when it no longer counts."""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from segray.pipelines.printing import visible

STALE_S = 120.0
"""Age of the heartbeat at which the lock of another machine is taken over."""


def this_machine() -> str:
    """The boot of this machine: hosts of one name (containers) must not be confused."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return socket.gethostname()


def _utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class LockRecord:
    """One holder of a lock.

    Attributes:
        token: random, of the run; the fence that `run_lock.owned` checks.
        heartbeat: seconds since 1970 when the holder last said that it lives.
        released: the holder has ended; only on object stores, see `store_lock`.
    """

    token: str = field(default_factory=lambda: secrets.token_hex(16))
    pid: int | str = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    machine: str = field(default_factory=this_machine)
    started: str = field(default_factory=_utc_now)
    heartbeat: float = field(default_factory=time.time)
    released: bool = False

    @property
    def age(self) -> float:
        """Seconds since the last heartbeat."""
        return time.time() - self.heartbeat

    @property
    def who(self) -> str:
        """The holder, for messages."""
        return f"pid {self.pid} on {self.host} since {self.started}"

    def alive(self) -> LockRecord:
        """The same record with a heartbeat of now."""
        return replace(self, heartbeat=time.time())

    def to_bytes(self) -> bytes:
        """JSON."""
        return json.dumps(asdict(self)).encode()


def parse_record(data: bytes, modified: float) -> LockRecord:
    """The record in a lock file; one that was cut while it was written is unknown, and as old as its file."""
    values: object = None
    with suppress(ValueError, RecursionError):
        values = json.loads(data)
    if not isinstance(values, dict):
        return LockRecord("", "?", "?", "", "?", modified)
    heartbeat = 0.0
    with suppress(TypeError, ValueError, OverflowError):
        heartbeat = float(values.get("heartbeat", 0.0))
    return LockRecord(
        token=str(values.get("token", "")),
        pid=_shown(values.get("pid", "?")),
        host=_shown(values.get("host", "?")),
        machine=str(values.get("machine", "")),
        started=_shown(values.get("started", "?")),
        heartbeat=heartbeat if math.isfinite(heartbeat) else 0.0,
        released=values.get("released") is True,
    )


def _shown(value: object) -> str:
    return visible(str(value))[:100]
