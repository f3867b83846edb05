from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from segray.pipelines.engine.guard import Guard, failed
from segray.pipelines.engine.ledger import Ledger
from segray.pipelines.io.images import ImageProblem


def rows(*names: str) -> list[Any]:
    return [
        {"image_id": name, "status": "ok", "error": None, "width": 6, "height": 4, "pixels": b"x"}
        for name in names
    ]


def double(batch: list[Any]) -> list[Any]:
    return [{**row, "seen": row["image_id"] * 2} for row in batch]


def bad_at(name: str, error: BaseException, batches: list[list[str]] | None = None) -> Any:
    """Work that raises for every batch with this image in it."""

    def work(batch: list[Any]) -> list[Any]:
        if batches is not None:
            batches.append([row["image_id"] for row in batch])
        if any(row["image_id"] == name for row in batch):
            raise error
        return double(batch)

    return work


def test_rows_that_are_not_ok_pass_untouched_and_in_order() -> None:
    given = rows("a", "b", "c")
    given[1] = failed(given[1], "truncated")
    found: list[Any] = Guard(Ledger(), 3).run("sam", given, double)
    assert [row["image_id"] for row in found] == ["a", "b", "c"]
    assert found[1] is given[1]
    assert [row.get("seen") for row in found] == ["aa", None, "cc"]


def test_a_batch_without_a_good_row_never_reaches_the_work() -> None:
    given = [failed(row, "truncated") for row in rows("a")]
    assert Guard(Ledger(), 3).run("sam", given, bad_at("a", AssertionError())) == given
    assert Guard(Ledger(), 3).run("sam", [], double) == []


def test_an_image_that_raises_costs_no_other() -> None:
    batches: list[list[str]] = []
    error = ValueError("no  such\nluck")
    found: list[Any] = Guard(Ledger(), 3).run("sam", rows(*"abcde"), bad_at("d", error, batches))
    assert [row["status"] for row in found] == ["ok", "ok", "ok", "error", "ok"]
    assert found[3]["error"] == "sam: ValueError: no such luck"
    assert found[3]["pixels"] is None
    assert [row.get("seen") for row in found] == ["aa", "bb", "cc", None, "ee"]
    assert batches == [list("abcde"), ["a", "b"], ["c", "d", "e"], ["c"], ["d", "e"], ["d"], ["e"]]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate"), RuntimeError("Out of Memory")],
)
def test_a_batch_too_large_for_the_memory_is_halved(error: Exception) -> None:
    batches: list[int] = []

    def work(batch: list[Any]) -> list[Any]:
        batches.append(len(batch))
        if len(batch) > 2:
            raise error
        return double(batch)

    found: list[Any] = Guard(Ledger(), 3).run("clip", rows(*"abcdefgh"), work)
    assert [row["seen"] for row in found] == [name * 2 for name in "abcdefgh"]
    assert batches == [8, 4, 2, 2, 4, 2, 2]


@pytest.mark.parametrize(
    ("known", "size"), [({}, " (6x4)"), ({"width": None}, "")], ids=["decoded", "while reading"]
)
def test_an_image_too_large_alone_is_an_error_row(known: dict[str, Any], size: str) -> None:
    row: Any = {**rows("a")[0], **known}
    (found,) = Guard(Ledger(), 3).run("read", [row], bad_at("a", MemoryError()))
    assert (found["status"], found["error"]) == ("error", f"read: out of memory on this image alone{size}")


def test_out_of_memory_before_the_size_is_known_is_an_error_row_too() -> None:
    given: list[Any] = [{"image_id": "a", "uri": "a", "problem": None, "status": "ok"}]
    (found,) = Guard(Ledger(), 3).run("read", given, bad_at("a", MemoryError()))
    assert found["error"] == "read: out of memory on this image alone"


def test_a_problem_of_the_image_keeps_its_own_status_and_words() -> None:
    problem = ImageProblem("skipped", "animated (3 frames)")
    found: list[Any] = Guard(Ledger(), 3).run("read", rows("a", "b"), bad_at("b", problem))
    assert [(row["status"], row["error"]) for row in found] == [
        ("ok", None),
        ("skipped", "animated (3 frames)"),
    ]


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(1)])
def test_being_stopped_is_no_image_s_fault(signal: BaseException) -> None:
    ledger = Ledger()
    with pytest.raises(type(signal)):
        Guard(ledger, 3).run("sam", rows("a", "b"), bad_at("b", signal))
    assert ledger.begin("sam", ["a"])


def test_after_a_death_images_are_taken_one_at_a_time() -> None:
    ledger, batches = Ledger(), list[list[str]]()
    ledger.begin("sam", ["a", "b", "c"])
    Guard(ledger, 3).run("sam", rows("a", "b", "c"), bad_at("", ValueError(), batches))
    assert batches == [["a"], ["b"], ["c"]]
    batches.clear()
    Guard(ledger, 3).run("sam", rows("a", "b", "c"), bad_at("", ValueError(), batches))
    assert batches == [["a", "b", "c"]]


class Death(BaseException):
    """Stands for the end of the process: nothing after it is run."""


def until_it_lives(
    work: Callable[[list[Any]], list[Any]], ledger: Ledger, max_tries: int
) -> tuple[list[Any], int]:
    """What Ray does: the same batch again for as long as its worker dies; the rows, and the deaths."""
    for deaths in range(100):
        try:
            return Guard(ledger, max_tries).run("sam", rows(*"abcd"), work), deaths
        except Death:
            continue
    raise AssertionError("it never ends")


@pytest.mark.parametrize("max_tries", [1, 3])
def test_images_that_kill_their_worker_are_given_up(max_tries: int) -> None:
    def work(batch: list[Any]) -> list[Any]:
        if any(row["image_id"] in "bd" for row in batch):
            raise Death
        return double(batch)

    ledger = Ledger()
    found, deaths = until_it_lives(work, ledger, max_tries)
    assert [row["status"] for row in found] == ["ok", "error", "ok", "error"]
    assert found[1]["error"] == f"sam: its worker died {max_tries} times on this image alone"
    # Once with all of them, then each of the two alone.
    assert deaths == 1 + 2 * max_tries
    assert not ledger.begin("sam", list("abcd"))


def test_a_worker_that_died_for_another_reason_costs_no_image() -> None:
    lives = iter([False, False])

    def work(batch: list[Any]) -> list[Any]:
        if not next(lives, True):
            raise Death
        return double(batch)

    found, deaths = until_it_lives(work, Ledger(), 3)
    assert [row["status"] for row in found] == ["ok"] * 4
    assert deaths == 2


def test_a_broken_gpu_ends_the_process_so_that_a_new_one_takes_over() -> None:
    code = (
        "from segray.pipelines.engine.guard import Guard\n"
        "from segray.pipelines.engine.ledger import Ledger\n"
        "def work(rows): raise RuntimeError('CUDA error: an illegal memory access was encountered')\n"
        "rows = [{'image_id': name, 'status': 'ok'} for name in 'ab']\n"
        "Guard(Ledger(), 3).run('sam', rows, work)\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stdout) == (1, "")
    assert "sam: CUDA error" in done.stderr


def test_a_reason_is_one_line_of_bounded_length() -> None:
    (row,) = rows("a")
    found: Any = failed(row, "one\n two\t" + "x" * 1000, "skipped")
    assert found["error"].startswith("one two xxx")
    assert len(found["error"]) == 500
    assert (found["status"], found["pixels"], found["segments"]) == ("skipped", None, None)
