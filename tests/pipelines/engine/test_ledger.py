from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from segray.pipelines.engine import ledger
from segray.pipelines.engine.ledger import Ledger, Tally


def test_images_are_begun_again_only_when_their_worker_never_ended_them() -> None:
    run_ledger = Ledger()
    assert not run_ledger.begin("sam", ["a", "b"])
    assert not run_ledger.begin("sam", ["c"])
    assert not run_ledger.begin("clip", ["a"])
    run_ledger.end("sam", ["a", "b"], 1.0)
    assert not run_ledger.begin("sam", ["a", "b"])
    assert run_ledger.begin("sam", ["b", "x"])
    assert run_ledger.tally().restarts == 1


def test_an_image_taken_alone_counts_its_tries_until_it_ends() -> None:
    run_ledger = Ledger()
    assert [run_ledger.begin_alone("sam", "a") for _ in range(3)] == [1, 2, 3]
    assert run_ledger.begin_alone("sam", "b") == 1
    assert run_ledger.begin_alone("clip", "a") == 1
    assert run_ledger.begin("sam", ["a"])
    run_ledger.end("sam", ["a"], 0.0)
    assert run_ledger.begin_alone("sam", "a") == 1


def test_the_tally_adds_up() -> None:
    run_ledger = Ledger()
    run_ledger.begin("sam", ["a", "b"])
    run_ledger.end("sam", ["a", "b"], 1.5)
    run_ledger.end("sam", ["c"], 0.5)
    run_ledger.end("clip", [], 0.25)
    run_ledger.committed({"ok": 2, "error": 1}, 0.125)
    run_ledger.committed({"ok": 1}, 0.125)
    tally = run_ledger.tally()
    assert tally.rows == {"ok": 3, "error": 1}
    assert tally.seconds == {"sam": 2.0, "clip": 0.25, "write": 0.25}
    assert tally.images == {"sam": 3, "clip": 0, "write": 4}
    assert tally.restarts == 0
    assert pickle.loads(pickle.dumps(tally)) == tally


def test_workers_are_busy_a_share_of_the_time_from_the_first_image_to_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([100.0, 104.0, 105.0, 110.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    run_ledger = Ledger()
    run_ledger.begin("sam", ["a"])
    run_ledger.begin("clip", ["a"])
    run_ledger.end("sam", ["a"], 9.0)
    run_ledger.end("clip", ["a"], 2.5)
    run_ledger.committed({"ok": 1}, 30.0)
    tally = replace(run_ledger.tally(), workers={"sam": 2, "clip": 1})
    assert tally.utilisation() == {"sam": 0.45, "clip": 0.25}
    assert replace(tally, workers={"sam": 3, "other": 1}).utilisation() == {"sam": 9 / (3 * 5)}
    assert Tally(workers={"sam": 2}).utilisation() == {}


def test_workers_in_threads_lose_no_count() -> None:
    run_ledger = Ledger()

    def work(number: int) -> None:
        for i in range(50):
            ids = [f"{number}/{i}"]
            run_ledger.begin("sam", ids)
            run_ledger.end("sam", ids, 1.0)
            run_ledger.committed({"ok": 1}, 0.0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    tally = run_ledger.tally()
    assert (tally.rows["ok"], tally.images["sam"], tally.seconds["sam"], tally.restarts) == (400, 400, 400, 0)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_ledger_of_a_cluster_answers_as_the_plain_one() -> None:
    with ledger.started() as run_ledger:
        assert not run_ledger.begin("sam", ["a", "b"])
        assert run_ledger.begin("sam", ["b"])
        assert [run_ledger.begin_alone("sam", "b") for _ in range(2)] == [1, 2]
        run_ledger.end("sam", {"a", "b"}, 2.0)
        assert not run_ledger.begin("sam", ["a"])
        run_ledger.committed({"ok": 1}, 0.5)
        tally = run_ledger.tally()
    assert (tally.rows, tally.images["sam"], tally.seconds["sam"], tally.restarts) == ({"ok": 1}, 2, 2.0, 1)
