"""One writer per output: a lock with a heartbeat, and the check that fences off a run that lost it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.local_lock import LOCK_NAME, LocalLock
from segray.pipelines.io.lock_record import STALE_S, LockRecord
from segray.pipelines.io.store_lock import StoreLock

__all__ = ["IN_USE", "LOCK_NAME", "RunLock", "owned", "still_owner"]

REFRESH_S = 20.0
IN_USE = 4
"""Exit status of a command whose output is locked by another run."""

_log = logging.getLogger(__name__)


class RunLock:
    """Context manager that holds the lock of an output while a run writes there.

    The lock of a run that was killed on this machine is free at once. The lock of a run on another machine,
    or on an object store, is free when its heartbeat is older than two minutes; the clocks of machines that
    share an output must agree to within that.

    Raises:
        UserError: on entering; exit code 4 when another run holds the lock, 2 when the folder is read-only.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._record = LockRecord()
        self._lock = _lock_of(root)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def token(self) -> str:
        """The fencing token: what `owned` and `still_owner` ask for."""
        return self._record.token

    def __enter__(self) -> RunLock:
        try:
            with self._lock.exclusive():
                reason = self._lock.acquire(self._record)
        except BlockingIOError:
            raise UserError(_in_use(self.root, self._lock.holder()), exit_code=IN_USE) from None
        if reason is not None:
            _log.warning("taking over the lock of %s: %s", storage.display(self.root), reason)
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
            with self._lock.exclusive():
                self._lock.release(self._record)
        except (OSError, UserError) as problem:
            # The outcome of the run matters more than a lock that the next run will recognise as stale.
            _log.warning("cannot remove the lock: %s", problem)

    def _keep(self) -> None:
        while not self._stop.wait(REFRESH_S):
            try:
                with self._lock.exclusive():
                    if not still_owner(self.root, self.token):
                        _log.error("the lock of %s was taken over by another run", storage.display(self.root))
                        return
                    self._lock.refresh(self._record.alive())
            except (OSError, UserError) as error:
                # A full disk must not end the heartbeat: the next round may succeed.
                _log.warning("cannot refresh the lock: %s", error)


def still_owner(root: str, token: str) -> bool:
    """Whether the run with this token still holds the lock: asked just before a commit."""
    holder = _lock_of(root).holder()
    return holder is not None and holder.token == token


@contextmanager
def owned(root: str, token: str | None) -> Iterator[None]:
    """Commit inside this block: the lock is held, and on a local disk it cannot change hands meanwhile.

    The last writer of a killed run is thus either seen by the run that takes over, or stopped. On an object
    store the lock is only checked before. Without a token nothing is checked.

    Raises:
        UserError: exit code 4, another run took the output over.
    """
    if token is None:
        yield
        return
    with _lock_of(root).exclusive():
        if not still_owner(root, token):
            message = f"another run took over {storage.display(root)}; this one stops without writing more"
            raise UserError(message, exit_code=IN_USE)
        yield


def _lock_of(root: str) -> LocalLock | StoreLock:
    return LocalLock(root) if storage.is_local(root) else StoreLock(root)


def _in_use(root: str, holder: LockRecord | None) -> str:
    who = holder.who if holder else "another run"
    hint = f"wait for it or choose another out (the lock of a dead run is free after {STALE_S:.0f} s)"
    return f"{storage.display(root)} is in use by {who}; {hint}"
