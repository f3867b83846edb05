"""Progress lines, from the workers of a run to the terminal of its driver."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click

from segray.pipelines.engine.waiting import Waiting

_INTERVAL_S = 0.5
_START = "the training workers: their place on the cluster, then their start"


class LogCollector:
    """Actor that holds the lines of the workers until the driver prints them."""

    def __init__(self) -> None:
        self._lines: list[str] = []
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


class RemoteWrite(Protocol):
    """`LogCollector.write` or `note` as Ray's workers call it."""

    def remote(self, line: str) -> object:
        """Send a line without waiting."""
        ...


class LogActor(Protocol):
    """Handle of an actor with `write` and `note`."""

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
    """A `LogCollector` actor, and a thread that prints its lines on stderr."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's node, which the run cannot outlive: lines on a node that is lost would be lost too.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(LogCollector).remote()
    ended = threading.Event()

    def print_lines(wait: Waiting) -> None:
        lines, doing = ray.get(actor.drain.remote())
        for line in lines:
            click.echo(line, err=True)
            wait.heard()
        if doing:
            wait.what = doing

    def follow() -> None:
        with Waiting(_START) as wait:
            while not ended.wait(_INTERVAL_S):
                print_lines(wait)
            print_lines(wait)

    thread = threading.Thread(target=follow, name="segray-train-lines", daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        ended.set()
        thread.join()
