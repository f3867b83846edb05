from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.label_set.store import (
    LabelStore,
    write_part,
)
from tests.pipelines.label_sets import (
    no_file_larger_than,
    ok_row,
    tables,
)

REPOSITORY = Path(__file__).parents[3]

KILLED = """
import os, sys
from pathlib import Path
from segray.pipelines.label_set.store import write_part
from tests.pipelines.label_sets import ok_row, tables
calls = 0
real = os.fsync
def fsync(descriptor):
    global calls
    calls += 1
    if calls == moment:
        os._exit(9)
    real(descriptor)
os.fsync = fsync
for moment in range(1, 5):
    pid = os.fork()
    if not pid:
        write_part(str(Path(sys.argv[1]) / str(moment)), *tables([ok_row("a"), ok_row("b")]))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders 1 to 4, each left by a writer that died when it made the data or name of a file durable."""
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=REPOSITORY, check=True, timeout=60)
    return folder


@pytest.mark.parametrize(
    ("moment", "leftovers", "committed"),
    [
        pytest.param(1, 1, False, id="in the segments file"),
        pytest.param(2, 1, False, id="between segments and labels"),
        pytest.param(3, 2, False, id="in the labels file"),
        pytest.param(4, 0, True, id="after the commit"),
    ],
)
def test_a_killed_writer_leaves_a_whole_part_or_none(
    killed: Path, moment: int, leftovers: int, committed: bool
) -> None:
    root = killed / str(moment)
    store = LabelStore(str(root))
    assert [i for i, _, _ in store.statuses()] == (["a", "b"] if committed else [])
    assert store.drop_orphans() == leftovers
    assert len([p for p in root.rglob("*") if p.is_file()]) == (2 if committed else 0)
    part = write_part(str(root), *tables([ok_row("a"), ok_row("b")]))
    assert [row["image_id"] for row in store.rows(["image_id"])] == ["a", "b"]
    assert store.segments(part).num_rows == 4
    assert store.drop_orphans() == 0


@pytest.mark.parametrize("limit", [2_000, 20_000], ids=["segments do not fit", "labels do not fit"])
def test_a_full_disk_says_what_is_safe_and_keeps_it(tmp_path: Path, limit: int) -> None:
    write_part(str(tmp_path), *tables([ok_row("a")]))
    made = tables([ok_row(f"{i}") for i in range(200)])
    safe = r"File too large; nothing .*; finished parts are safe; repair this and run the same command again"
    with no_file_larger_than(limit), pytest.raises(UserError, match=safe) as caught:
        write_part(str(tmp_path), *made)
    assert caught.value.exit_code == 1
    store = LabelStore(str(tmp_path))
    assert [i for i, _, _ in store.statuses()] == ["a"]
    assert not any(
        name.startswith(".") for path in tmp_path.iterdir() for name in storage.list_names(str(path))
    )
    assert len(store.orphans()) == int(limit > 2_000)
    write_part(str(tmp_path), *made)
    assert len(list(store.statuses())) == 201


def test_a_run_that_lost_its_lock_commits_nothing(tmp_path: Path) -> None:
    with RunLock(str(tmp_path)) as lock:
        (tmp_path / ".lock.json").write_text('{"token": "theirs"}', encoding="utf-8")
        with pytest.raises(UserError, match="another run took over") as caught:
            write_part(str(tmp_path), *tables([ok_row("a")]), token=lock.token)
    assert caught.value.exit_code == 4
    assert LabelStore(str(tmp_path)).parts() == []
