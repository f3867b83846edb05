"""Who works on what: finds the image that kills its worker, and counts what is done.

A worker reports which images it begins and which it has ended. If it dies, Ray Data hands the same images to
another worker, and the ledger knows that they were begun and never ended: they are then processed one at a
time, and an image that repeatedly kills its worker alone becomes an error row.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from segray.pipelines.engine.actors import actor_here


@dataclass
class Tally:
    """What a run has done so far.

    Attributes:
        rows: finished images by status.
        seconds: busy seconds by stage, summed over its workers.
        images: images that each stage has processed.
        restarts: how often images came back after the death of their worker.
        began: when each stage got its first image, in seconds of the ledger's clock.
        ended: when it ended its last image so far.
        workers: the most workers that each pool may have.
        probe: seconds per image by stage, if a probe measured them before the run.
        gpu_busy: sum of the samples of how busy a GPU was, from 0 to 1 each.
        gpu_samples: how many of them there are.
    """

    rows: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    images: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    began: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    probe: dict[str, float] = field(default_factory=dict)
    gpu_busy: float = 0.0
    gpu_samples: int = 0

    def utilisation(self) -> dict[str, float]:
        """The share of their time that the workers of each pool were busy.

        Their time runs from the first image into any pool to the last image out of any pool, so that neither
        start-up nor summary counts.
        """
        pools = [name for name in self.workers if name in self.began and name in self.ended]
        if not pools:
            return {}
        span = max(self.ended[name] for name in pools) - min(self.began[name] for name in pools)
        return {name: self.seconds[name] / (self.workers[name] * span) for name in pools} if span > 0 else {}


class Ledger:
    """One per run, called by all workers (as a Ray actor), or used within one process."""

    def __init__(self) -> None:
        self._open: set[tuple[str, str]] = set()
        self._alone: Counter[tuple[str, str]] = Counter()
        self._tally = Tally()
        self._lock = threading.Lock()

    def begin(self, stage: str, ids: Sequence[str]) -> bool:
        """Record that a worker begins these images; True if any was begun before and never ended."""
        with self._lock:
            keys = {(stage, i) for i in ids}
            again = bool(keys & self._open)
            self._open |= keys
            self._tally.restarts += again
            self._tally.began.setdefault(stage, time.monotonic())
            return again

    def begin_alone(self, stage: str, image_id: str) -> int:
        """Record that a worker begins this image alone; how often so far, this time included."""
        with self._lock:
            self._open.add((stage, image_id))
            self._alone[stage, image_id] += 1
            return self._alone[stage, image_id]

    def end(self, stage: str, ids: Iterable[str], seconds: float) -> None:
        """Record that a worker has ended these images."""
        with self._lock:
            keys = {(stage, i) for i in ids}
            self._open -= keys
            for key in keys:
                self._alone.pop(key, None)
            self._tally.seconds[stage] += seconds
            self._tally.images[stage] += len(keys)
            self._tally.ended[stage] = time.monotonic()

    def sampled(self, busy: float, samples: int) -> None:
        """Add up some samples of how busy a worker's GPU was."""
        with self._lock:
            self._tally.gpu_busy += busy
            self._tally.gpu_samples += samples

    def committed(self, statuses: Mapping[str, int], seconds: float) -> None:
        """Count the rows of a part that is written."""
        with self._lock:
            self._tally.rows.update(statuses)
            self._tally.seconds["write"] += seconds
            self._tally.images["write"] += sum(statuses.values())

    def tally(self) -> Tally:
        """What is done so far."""
        with self._lock:
            return self._tally


class RemoteLedger:
    """The same calls on a `Ledger` that lives in a Ray actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def begin(self, stage: str, ids: Sequence[str]) -> bool:
        """See `Ledger.begin`."""
        return self._call("begin", stage, list(ids))

    def begin_alone(self, stage: str, image_id: str) -> int:
        """See `Ledger.begin_alone`."""
        return self._call("begin_alone", stage, image_id)

    def end(self, stage: str, ids: Iterable[str], seconds: float) -> None:
        """See `Ledger.end`. Does not wait for an answer."""
        self._actor.end.remote(stage, list(ids), seconds)

    def sampled(self, busy: float, samples: int) -> None:
        """See `Ledger.sampled`. Does not wait for an answer."""
        self._actor.sampled.remote(busy, samples)

    def committed(self, statuses: Mapping[str, int], seconds: float) -> None:
        """See `Ledger.committed`."""
        self._call("committed", dict(statuses), seconds)

    def tally(self) -> Tally:
        """See `Ledger.tally`."""
        return self._call("tally")

    def _call(self, name: str, *args: object) -> Any:
        import ray

        return ray.get(getattr(self._actor, name).remote(*args))


@contextmanager
def started() -> Iterator[RemoteLedger]:
    """A ledger in an actor, for the time of a run."""
    with actor_here(Ledger) as actor:
        yield RemoteLedger(actor)
