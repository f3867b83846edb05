"""One writer a label set: a lock file with a heartbeat, and the check that fences off a run that lost it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage

LOCK_NAME = ".lock.json"
REFRESH_S = 20.0
STALE_S = 120.0
# How long an object store's other writer has between its read and its write before ours is read back.
_SETTLE_S = 0.5

# Exit status of a command whose output another run holds.
IN_USE = 4

_log = logging.getLogger(__name__)


class RunLock:
    """Context manager that holds `root/.lock.json` while a run writes there.

    On a local disk the file is created exclusively. Object stores have no such call here, so there the lock
    is read, checked, written and read back: best effort, which `still_owner` before each commit completes.
    A lock is stale, and taken over, when its process on this machine is dead (or its number was given to a
    younger process), or when the heartbeat of another machine is older than two minutes; the clocks of
    machines that share an output must agree to within that.

    Raises:
        UserError: on entering; exit code 4 when another run holds the lock, 2 when the folder is read-only.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.token = secrets.token_hex(16)
        self._record = {"token": self.token, "started": _utc_now(), **_identity()}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RunLock:
        with _exclusive(self.root):
            self._acquire()
        self._thread = threading.Thread(target=self._keep, name="segray-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        try:
            with _exclusive(self.root):
                if still_owner(self.root, self.token):
                    storage.delete(_path(self.root))
        except (OSError, UserError) as problem:
            # The run's own outcome matters more than a lock that the next run will recognise as stale.
            _log.warning("cannot remove the lock: %s", problem)

    def _acquire(self) -> None:
        held = _read(self.root)
        if held is not None:
            reason = _stale_reason(held)
            if reason is None:
                raise UserError(_in_use(self.root, held), exit_code=IN_USE)
            _log.warning("taking over the lock of %s: %s", storage.display(self.root), reason)
        self._write(exclusive=held is None)
        if not storage.is_local(self.root):
            time.sleep(_SETTLE_S)
        if not still_owner(self.root, self.token):
            raise UserError(_in_use(self.root, _read(self.root) or {}), exit_code=IN_USE)

    def _write(self, *, exclusive: bool = False) -> None:
        data = json.dumps({**self._record, "heartbeat": time.time()}).encode()
        if not (exclusive and storage.is_local(self.root)):
            storage.write_atomic(_path(self.root), data)
            return
        try:
            with storage.local_path(_path(self.root)).open("xb") as file:
                file.write(data)
        except FileExistsError:
            raise UserError(_in_use(self.root, _read(self.root) or {}), exit_code=IN_USE) from None
        except OSError as error:
            storage.local_path(_path(self.root)).unlink(missing_ok=True)
            raise storage.write_error(_path(self.root), error) from error

    def _keep(self) -> None:
        while not self._stop.wait(REFRESH_S):
            try:
                with _exclusive(self.root):
                    if not still_owner(self.root, self.token):
                        _log.error("the lock of %s was taken over by another run", storage.display(self.root))
                        return
                    self._write()
            except (OSError, UserError) as error:
                # A full disk must not end the heartbeat: the next round may succeed.
                _log.warning("cannot refresh the lock: %s", error)


def still_owner(root: str, token: str) -> bool:
    """Whether the run with this token still holds the lock: asked just before a commit."""
    held = _read(root)
    return held is not None and held.get("token") == token


@contextlib.contextmanager
def owned(root: str, token: str | None) -> Iterator[None]:
    """Commit inside this block: the lock is held, and on a local disk it cannot change hands meanwhile.

    A killed run's last writer is so either seen by the run that takes over, or stopped. On an object store
    the lock is only checked first. Without a token nothing is checked.

    Raises:
        UserError: exit code 4, another run took the output over.
    """
    if token is None:
        yield
        return
    with _exclusive(root):
        if not still_owner(root, token):
            message = f"another run took over {storage.display(root)}; this one stops without writing more"
            raise UserError(message, exit_code=IN_USE)
        yield


def _path(root: str) -> str:
    return storage.join(root, LOCK_NAME)


def _utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def _exclusive(root: str) -> Iterator[None]:
    """Let one process of this machine at a time read, check and write the lock; ends with its process."""
    if not storage.is_local(root):
        yield
        return
    folder = storage.local_path(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot use {folder} as output: {error.strerror}") from error
    try:
        # Network file systems may refuse to lock a folder: then the exclusive create alone decides.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(root: str) -> dict[str, Any] | None:
    """The lock's content; {} with its time as heartbeat when it was cut while being written."""
    try:
        data = storage.read_bytes(_path(root))
    except FileNotFoundError:
        return None
    with contextlib.suppress(ValueError):
        record = json.loads(data)
        if isinstance(record, dict):
            return record
    return {"heartbeat": _modified(root)}


def _modified(root: str) -> float:
    filesystem, path = storage.open_storage(_path(root))
    modified = storage.with_retries(lambda: filesystem.get_file_info(path), root).mtime
    return modified.timestamp() if modified else 0.0


def _identity() -> dict[str, Any]:
    pid = os.getpid()
    _, start = _process(pid) or ("", "")
    return {"pid": pid, "host": socket.gethostname(), "machine": _machine(), "process_start": start}


def _machine() -> str:
    """Boot and pid namespace: hosts of one name (containers) must not judge each other's process numbers."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _process(pid: int) -> tuple[str, str] | None:
    """State letter and start time (clock ticks since boot) of a process; None when gone or unknown."""
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The command's name may hold spaces and brackets, so count from the last bracket.
        fields = stat.rpartition(")")[2].split()
        return fields[0], fields[19]
    return None


def _is_alive(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    process = _process(pid)
    if process is None:
        return True
    state, now = process
    return state not in {"Z", "X"} and start in {"", now}


def _stale_reason(held: dict[str, Any]) -> str | None:
    pid, host = held.get("pid"), held.get("host")
    if isinstance(pid, int) and (host, held.get("machine")) == (socket.gethostname(), _machine()):
        alive = _is_alive(pid, str(held.get("process_start", "")))
        return None if alive else f"its process {pid} on this machine has ended"
    heartbeat = held.get("heartbeat")
    age = time.time() - (heartbeat if isinstance(heartbeat, int | float) else 0.0)
    return f"no sign of pid {pid} on {host} for {age:.0f} s" if age > STALE_S else None


def _in_use(root: str, held: dict[str, Any]) -> str:
    who = f"pid {held.get('pid', '?')} on {held.get('host', '?')} since {held.get('started', '?')}"
    hint = (
        f"wait for it or choose another out (the lock of a run that died is taken over after {STALE_S:.0f} s)"
    )
    return f"{storage.display(root)} is in use by {who}; {hint}"
