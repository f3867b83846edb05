"""What a run starts beside its pools is gone after it, however long its driver lives."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from segray.pipelines.engine.actors import actor_here, own_interrupt


class Counter:
    def __init__(self, start: int) -> None:
        self._count = start

    def add(self) -> int:
        self._count += 1
        return self._count

    def process(self) -> int:
        return os.getpid()


def user_of(actor: Any) -> Callable[[], int]:
    """A task that holds the handle in its code, as a stage of Ray Data does."""
    import ray

    def use() -> int:
        return int(ray.get(actor.add.remote()))

    return use


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_actor_that_a_task_knows_ends_with_its_block() -> None:
    import ray
    from ray.exceptions import RayActorError

    with actor_here(Counter, 4) as actor:
        assert ray.get(ray.remote(num_cpus=0)(user_of(actor)).remote()) == 5
        assert ray.get(actor.process.remote()) != os.getpid()
    with pytest.raises(RayActorError):
        ray.get(actor.add.remote())


def test_a_handler_that_is_not_python_s_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    with own_interrupt():
        pass


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_lost_cluster_hides_no_other_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def lost(actor: object) -> None:
        kill(actor)
        raise ConnectionError

    kill = ray.kill
    monkeypatch.setattr(ray, "kill", lost)
    with pytest.raises(KeyError), actor_here(Counter, 0):
        raise KeyError


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_it_ends_with_an_error_too() -> None:
    import ray
    from ray.exceptions import RayActorError

    with pytest.raises(KeyError), actor_here(Counter, 0) as actor:
        raise KeyError
    with pytest.raises(RayActorError):
        ray.get(actor.add.remote())


def test_ctrl_c_means_what_it_meant() -> None:
    before = signal.getsignal(signal.SIGINT)
    with own_interrupt():
        signal.signal(signal.SIGINT, lambda *_: None)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_cannot_change_it_and_does_not_try() -> None:
    ended = []

    def work() -> None:
        with own_interrupt():
            pass
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]
