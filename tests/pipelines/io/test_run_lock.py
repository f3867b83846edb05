from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io import run_lock, storage, store_lock
from segray.pipelines.io.lock_record import this_machine
from segray.pipelines.io.run_lock import LOCK_NAME, RunLock, still_owner
from tests.pipelines.label_sets import no_file_larger_than
from tests.pipelines.object_stores import s3_server

HOLDER = """
import sys
from segray.pipelines.io.run_lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def _holder(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def _lock_of_another(root: Path, **changes: Any) -> None:
    """A live lock of a run on another machine, but for the changes."""
    record = {
        "pid": 123,
        "host": "node7",
        "machine": "another boot",
        "started": "2026-01-01T00:00:00Z",
        "token": "theirs",
        "heartbeat": time.time(),
    }
    (root / LOCK_NAME).write_text(json.dumps({**record, **changes}), encoding="utf-8")


def _own_identity() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "machine": this_machine()}


def test_a_second_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with _holder(tmp_path / "out") as process:
        with pytest.raises(UserError) as caught, RunLock(str(tmp_path / "out")):
            pass
        assert caught.value.exit_code == 4
        record = json.loads((tmp_path / "out" / LOCK_NAME).read_text(encoding="utf-8"))
        who = f"pid {process.pid} on {socket.gethostname()} since {record['started']}"
        assert str(caught.value).startswith(f"{tmp_path}/out is in use by {who}; ")
        process.communicate("\n")
    assert not (tmp_path / "out" / LOCK_NAME).exists()


def test_the_lock_of_a_killed_process_is_taken_over_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _holder(tmp_path) as process:
        process.kill()
        # Not waited for: a dead process that its parent has not collected holds nothing either.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with caplog.at_level(logging.WARNING), RunLock(str(tmp_path)) as lock:
            assert still_owner(str(tmp_path), lock.token)
    assert f"its process {process.pid} on this machine has ended" in caplog.text


def test_a_reused_process_number_does_not_block(tmp_path: Path) -> None:
    _lock_of_another(tmp_path, **_own_identity())
    with RunLock(str(tmp_path)) as lock:
        assert still_owner(str(tmp_path), lock.token)


@pytest.mark.parametrize("name", ["node7", socket.gethostname()])
def test_another_machine_is_judged_by_its_heartbeat_alone(tmp_path: Path, name: str) -> None:
    nobody = 2**22 + 1
    _lock_of_another(tmp_path, host=name, pid=nobody, heartbeat=time.time() - 100)
    with pytest.raises(UserError, match=f"in use by pid {nobody} on {name} since 2026-01-01T00:00:00Z"):
        RunLock(str(tmp_path)).__enter__()
    _lock_of_another(tmp_path, host=name, pid=nobody, heartbeat=time.time() - 121)
    with RunLock(str(tmp_path)) as lock:
        assert still_owner(str(tmp_path), lock.token)


@pytest.mark.parametrize("content", ['{"pid": 1', "", "[]"])
def test_a_lock_cut_while_being_written_blocks_for_two_minutes(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_NAME).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="is in use by pid"):
        RunLock(str(tmp_path)).__enter__()
    os.utime(tmp_path / LOCK_NAME, (time.time() - 121,) * 2)
    with RunLock(str(tmp_path)) as lock:
        assert still_owner(str(tmp_path), lock.token)


def test_a_run_that_lost_its_lock_is_fenced_off_and_leaves_the_new_one(tmp_path: Path) -> None:
    with RunLock(str(tmp_path)) as lock:
        assert still_owner(str(tmp_path), lock.token)
        _lock_of_another(tmp_path)
        assert not still_owner(str(tmp_path), lock.token)
    assert still_owner(str(tmp_path), "theirs")


def test_an_error_inside_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunLock(str(tmp_path)):
        raise KeyboardInterrupt
    assert storage.list_names(str(tmp_path)) == []


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    _lock_of_another(tmp_path, heartbeat=0)
    start, finish = threading.Barrier(8), threading.Barrier(8)

    def compete(_: int) -> bool:
        lock = RunLock(str(tmp_path))
        start.wait()
        try:
            with lock:
                finish.wait()
        except UserError:
            finish.wait()
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(compete, range(8))) == [False] * 7 + [True]


def test_the_heartbeat_is_refreshed_until_the_lock_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_lock, "REFRESH_S", 0.01)
    path = tmp_path / LOCK_NAME
    with RunLock(str(tmp_path)) as lock:
        first = json.loads(path.read_text(encoding="utf-8"))["heartbeat"]
        while json.loads(path.read_text(encoding="utf-8"))["heartbeat"] == first:
            time.sleep(0.01)
        # The refresher may be between its check and its write; then ours is written over, and once more.
        while lock._thread is not None and lock._thread.is_alive():
            _lock_of_another(tmp_path)
            time.sleep(0.01)
    assert "was taken over by another run" in caplog.text


def test_an_object_store_lock_excludes_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "_SETTLE_S", 0.0)
    root = "memory://locked/out"
    with RunLock(root) as lock:
        with pytest.raises(UserError, match="memory://locked/out is in use by pid"):
            RunLock(root).__enter__()
        assert still_owner(root, lock.token)
    assert not storage.exists(storage.join(root, LOCK_NAME))


def test_on_an_object_store_the_later_of_two_simultaneous_writers_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = "memory://raced/out"
    theirs = json.dumps({"token": "theirs", "pid": 7, "host": "node7"}).encode()

    def other_writes(_: float) -> None:
        storage.write_atomic(storage.join(root, LOCK_NAME), theirs)

    monkeypatch.setattr(time, "sleep", other_writes)
    with pytest.raises(UserError, match="in use by pid 7 on node7"):
        RunLock(root).__enter__()
    assert still_owner(root, "theirs")


@pytest.fixture
def s3_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A prefix on an S3 server, which has conditional PUTs."""
    yield from s3_server(monkeypatch)


def _dead_run(root: str) -> bytes:
    """The lock of a run on another machine that no longer shows life."""
    record = json.dumps({"pid": 123, "host": "node7", "token": "theirs", "heartbeat": 0.0}).encode()
    storage.write_atomic(storage.join(root, LOCK_NAME), record)
    return record


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_find_a_free_or_stale_lock_on_s3_one_gets_it(s3_folder: str, stale: bool) -> None:
    if stale:
        _dead_run(s3_folder)
    start, finish = threading.Barrier(8), threading.Barrier(8)

    def compete(_: int) -> str:
        lock = RunLock(s3_folder)
        start.wait()
        try:
            with lock:
                finish.wait()
                return "owner" if still_owner(s3_folder, lock.token) else "fenced off"
        except UserError as error:
            finish.wait()
            return f"refused {error.exit_code}"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(compete, range(8))) == ["owner", *["refused 4"] * 7]


def test_a_dead_run_that_wakes_up_never_holds_the_lock_again_on_s3(s3_folder: str) -> None:
    late = _dead_run(s3_folder)
    with RunLock(s3_folder) as lock:
        storage.write_atomic(storage.join(s3_folder, LOCK_NAME), late)
        assert still_owner(s3_folder, lock.token)
        assert not still_owner(s3_folder, "theirs")
        with pytest.raises(UserError, match="is in use by pid"):
            RunLock(s3_folder).__enter__()
    storage.write_atomic(storage.join(s3_folder, LOCK_NAME), late)
    assert not still_owner(s3_folder, "theirs")
    with RunLock(s3_folder) as lock:
        assert still_owner(s3_folder, lock.token)
    assert len(storage.list_names(s3_folder)) == 1


def test_a_lock_on_s3_that_nobody_took_over_leaves_nothing(s3_folder: str) -> None:
    for _ in range(2):
        with RunLock(s3_folder) as lock:
            assert still_owner(s3_folder, lock.token)
    assert storage.list_names(s3_folder) == []


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot use .*/out as output: File exists") as caught:
        RunLock(str(tmp_path / "out")).__enter__()
    assert caught.value.exit_code == 2


def test_a_full_disk_leaves_no_lock_that_would_block_the_next_run(tmp_path: Path) -> None:
    with no_file_larger_than(10), pytest.raises(UserError, match=r"cannot write .*: File too large"):
        RunLock(str(tmp_path)).__enter__()
    assert storage.list_names(str(tmp_path)) == []
