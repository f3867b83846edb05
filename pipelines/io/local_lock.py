"""A run lock on a file system: an operating-system lock for this machine, a heartbeat for others.

`filelock` holds `.lock`, which the kernel releases with the process, however it ends. Machines that share the
folder over a network may not see that lock, so `.lock.json` says who holds it, with a heartbeat.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from filelock import FileLock, Timeout

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.lock_record import STALE_S, LockRecord, parse_record, this_machine

LOCK_NAME = ".lock.json"
_KERNEL_LOCK = ".lock"


class LocalLock:
    """The lock of one folder.

    Args:
        root: local path, made when missing.
    """

    def __init__(self, root: str) -> None:
        self._folder = storage.local_path(root)
        self._record = str(self._folder / LOCK_NAME)
        self._kernel = FileLock(str(self._folder / _KERNEL_LOCK), thread_local=False)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let one process of this machine at a time check and change the lock, or commit under it.

        The folder itself is locked: a file would have to be deleted while others wait for it.

        Raises:
            UserError: the folder cannot be made or opened.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"cannot use {self._folder} as output: {error.strerror}") from error
        try:
            # Network file systems may refuse to lock a folder: then `.lock` alone decides.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def holder(self) -> LockRecord | None:
        """Who holds the lock."""
        try:
            data = storage.read_bytes(self._record)
            file = storage.stat(self._record)
        except FileNotFoundError:
            return None
        return parse_record(data, file.mtime if file else 0.0)

    def acquire(self, record: LockRecord) -> str | None:
        """Take the lock, inside `exclusive`.

        Returns:
            Why the lock of an earlier run was taken over; None where there was none.

        Raises:
            BlockingIOError: another run holds it.
            UserError: the folder cannot be written to.
        """
        try:
            self._kernel.acquire(blocking=False)
        except Timeout as error:
            raise BlockingIOError from error
        except OSError as error:
            raise storage.write_error(str(self._folder / _KERNEL_LOCK), error) from error
        try:
            reason = _stale_reason(self.holder())
            self.refresh(record)
        except BaseException:
            self._release_kernel()
            raise
        return reason

    def refresh(self, record: LockRecord) -> None:
        """Write the record, with its heartbeat."""
        storage.write_atomic(self._record, record.to_bytes())

    def release(self, record: LockRecord) -> None:
        """Give the lock back, inside `exclusive`; what another run wrote in the meantime stays."""
        holder = self.holder()
        if holder is not None and holder.token == record.token:
            storage.delete(self._record)
        self._release_kernel()

    def _release_kernel(self) -> None:
        # Safe only inside `exclusive`, where nobody is about to lock the file that is deleted.
        try:
            (self._folder / _KERNEL_LOCK).unlink(missing_ok=True)
        finally:
            self._kernel.release()


def _stale_reason(holder: LockRecord | None) -> str | None:
    """Why the holder no longer counts, given that the kernel's lock is free.

    Raises:
        BlockingIOError: another machine holds the lock.
    """
    if holder is None:
        return None
    if holder.machine == this_machine():
        return f"its process {holder.pid} on this machine has ended"
    if holder.age > STALE_S:
        return f"no sign of pid {holder.pid} on {holder.host} for {holder.age:.0f} s"
    raise BlockingIOError
