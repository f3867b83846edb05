"""Actors of a run beside its pools: on the driver's node, and gone when the run is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def actor_here(actor_class: type, *args: object, max_restarts: int = 0) -> Iterator[Any]:
    """An actor without a CPU of its own on the driver's node, which the run cannot outlive.

    It ends with the block. By itself it would live as long as the driver, such as a notebook: a handle that
    was sent along with a stage counts as used from then on.

    Args:
        actor_class: what the actor is.
        args: of its constructor.
        max_restarts: how often Ray restarts it; -1: always.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": max_restarts, "scheduling_strategy": here}
    actor = ray.remote(**options)(actor_class).remote(*args)
    try:
        yield actor
    finally:
        # If the cluster is lost, so is the actor, and another error to report.
        with suppress(Exception):
            ray.kill(actor)


@contextmanager
def own_interrupt() -> Iterator[None]:
    """Ctrl-C means after the block what it meant before it.

    Ray Train takes SIGINT in the main thread and keeps it, and with it the process of its controller.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        # None: it was not set from Python, and cannot be set again from here.
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
