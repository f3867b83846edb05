"""Progress lines, from the workers of a run to the terminal of its driver."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from segray.pipelines.engine.actors import actor_here
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.printing import echo

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

    from segray.pipelines.training.failures import Failure

_INTERVAL_S = 0.5
_START = "the training workers: their place on the cluster, then their start"


class LogCollector:
    """Actor that holds the lines of the workers until the driver prints them, and what ended one for good."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._failure: Failure | None = None
        self._doing = ""

    def note(self, doing: str) -> None:
        """What the run is doing now, which is shown only if nothing else is for a while."""
        self._doing = doing

    def write(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line)

    def drain(self) -> tuple[list[str], str]:
        """The lines since the last call, and what the run is doing now."""
        lines, self._lines = self._lines, []
        return lines, self._doing

    def fail(self, failure: Failure) -> None:
        """Keep the first error that would happen again."""
        self._failure = self._failure or failure

    def failure(self) -> Failure | None:
        """The error that was kept."""
        return self._failure


class RemoteWrite(Protocol):
    """`LogCollector.write` or `note` as Ray's workers call it."""

    def remote(self, line: str) -> object:
        """Send a line without waiting."""
        ...


class RemoteFail(Protocol):
    """`LogCollector.fail` as Ray's workers call it."""

    def remote(self, failure: Failure) -> ObjectRef[None]:
        """Keep an error."""
        ...


class RemoteFailure(Protocol):
    """`LogCollector.failure` as Ray's workers call it."""

    def remote(self) -> ObjectRef[Failure | None]:
        """The error that was kept."""
        ...


class LogActor(Protocol):
    """Handle of an actor with `write`, `note`, `fail` and `failure`."""

    @property
    def fail(self) -> RemoteFail:
        """See `LogCollector.fail`."""
        ...

    @property
    def failure(self) -> RemoteFailure:
        """See `LogCollector.failure`."""
        ...

    @property
    def write(self) -> RemoteWrite:
        """See `LogCollector.write`."""
        ...

    @property
    def note(self) -> RemoteWrite:
        """See `LogCollector.note`."""
        ...


@contextmanager
def log_collector() -> Iterator[LogActor]:
    """A `LogCollector` actor, and a thread that prints its lines on stderr.

    On a node that is lost they would be lost too: it is on the driver's.
    """
    with actor_here(LogCollector, max_restarts=-1) as actor, _printed(actor):
        yield actor


@contextmanager
def _printed(actor: ActorHandle) -> Iterator[None]:
    import ray
    from ray.exceptions import ActorDiedError

    ended = threading.Event()

    def print_lines(wait: Waiting) -> None:
        lines, doing = ray.get(actor.drain.remote())
        for line in lines:
            echo(line, err=True)
            wait.heard()
        if doing:
            wait.what = doing

    def follow() -> None:
        # At a second Ctrl-C the actor may be gone before its last lines are printed.
        with Waiting(_START) as wait, suppress(ActorDiedError):
            while not ended.wait(_INTERVAL_S):
                print_lines(wait)
            print_lines(wait)

    thread = threading.Thread(target=follow, name="segray-train-lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
