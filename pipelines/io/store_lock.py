"""A run lock on an object store, by conditional PUTs: of all who try to create an object, one succeeds.

The first holder creates `.lock.json`. A run that takes over from a dead one creates the next of
`.lock-1.json`, `.lock-2.json`, ... The highest number holds the lock, so that a late heartbeat of the dead
run changes nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from segray.pipelines.io import storage
from segray.pipelines.io.local_lock import LOCK_NAME
from segray.pipelines.io.lock_record import STALE_S, LockRecord, parse_record

_NAME = re.compile(r"\.lock(?:-(\d+))?\.json")
# Before the object is read back: a store that ignores the condition has the record of the last writer then.
_SETTLE_S = 0.5


class StoreLock:
    """The lock of one prefix.

    Args:
        root: URI of an object store.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._name = LOCK_NAME

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nothing: an object store cannot hold others off while it is read and written."""
        yield

    def holder(self) -> LockRecord | None:
        """Who holds the lock."""
        name = self._highest()
        record = None if name is None else self._read(name)
        return None if record is None or record.released else record

    def acquire(self, record: LockRecord) -> str | None:
        """Take the lock.

        Returns:
            Why the lock of an earlier run was taken over; None where there was none.

        Raises:
            BlockingIOError: another run holds it, or was faster.
            UserError: the store refuses to write.
        """
        name = self._highest()
        holder = None if name is None else self._read(name)
        if holder is not None and not holder.released and holder.age <= STALE_S:
            raise BlockingIOError
        self._name = LOCK_NAME if name is None else f".lock-{_number(name) + 1}.json"
        self._create(record)
        self._remove_lower()
        if holder is None or holder.released:
            return None
        return f"no sign of pid {holder.pid} on {holder.host} for {holder.age:.0f} s"

    def refresh(self, record: LockRecord) -> None:
        """Write the record, with its heartbeat."""
        storage.write_atomic(self._uri(self._name), record.to_bytes())

    def release(self, record: LockRecord) -> None:
        """Give the lock back; what another run wrote in the meantime stays.

        A number above 0 is only marked: if it were gone, the run before it would hold the lock again.
        """
        holder = self.holder()
        if holder is None or holder.token != record.token:
            return
        if self._name == LOCK_NAME:
            storage.delete(self._uri(self._name))
        else:
            self.refresh(LockRecord(token=record.token, released=True))

    def _create(self, record: LockRecord) -> None:
        # A request that is repeated after a lost answer finds its own object, hence the look at the token.
        with suppress(FileExistsError):
            storage.create(self._uri(self._name), record.to_bytes())
        time.sleep(_SETTLE_S)
        written = self._read(self._name)
        if written is None or written.token != record.token:
            raise BlockingIOError

    def _remove_lower(self) -> None:
        for name in self._names():
            if _number(name) < _number(self._name):
                storage.delete(self._uri(name))

    def _highest(self) -> str | None:
        return max(self._names(), key=_number, default=None)

    def _names(self) -> list[str]:
        return [name for name in storage.list_names(self._root) if _NAME.fullmatch(name)]

    def _read(self, name: str) -> LockRecord | None:
        try:
            data = storage.read_bytes(self._uri(name))
        except FileNotFoundError:
            return None
        return parse_record(data, 0.0)

    def _uri(self, name: str) -> str:
        return storage.join(self._root, name)


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1] or 0) if match else 0
