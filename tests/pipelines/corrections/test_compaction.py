"""Many small parts become one, and nothing is lost wherever that is stopped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from segray.pipelines.corrections import Correction, CorrectionLog, compaction
from segray.pipelines.corrections.compaction import compact
from segray.pipelines.io import storage
from tests.pipelines.label_sets import IDS, write_set

IMAGE = IDS[0]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compaction, "MANY", 4)
    write_set(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the time pass after which packs replace their parts."""

    def wait() -> None:
        monkeypatch.setattr(compaction, "_GRACE", timedelta(minutes=-1))

    return wait


def clicks(root: Path, count: int) -> list[Correction]:
    log = CorrectionLog(root)
    made = []
    for _ in range(count):
        made.append(log.make(IMAGE, "name", segments=(0,), class_name="house"))
        log.append(made[-1:])
    return made


def parts(root: Path) -> set[str]:
    return {path.name for path in (root / "corrections").iterdir()}


def test_few_parts_stay_as_they_are(root: Path, later: Callable[[], None]) -> None:
    made = clicks(root, 3)
    later()
    compact(CorrectionLog(root))
    assert len(parts(root)) == 3
    assert CorrectionLog(root).read() == made


def test_many_become_one_and_go_when_it_has_been_there_for_long(
    root: Path, later: Callable[[], None]
) -> None:
    made = clicks(root, 5)
    reader = CorrectionLog(root)
    assert reader.read() == made
    compact(CorrectionLog(root))
    compact(CorrectionLog(root))
    assert len(parts(root)) == 6
    assert reader.read() == CorrectionLog(root).read() == made

    later()
    compact(CorrectionLog(root))
    assert len(parts(root)) == 1
    assert reader.read() == CorrectionLog(root).read() == made

    more = clicks(root, 5)
    compact(CorrectionLog(root))
    compact(CorrectionLog(root))
    assert len(parts(root)) == 2
    assert reader.read() == CorrectionLog(root).read() == [*made, *more]


def test_stopped_anywhere_nothing_is_lost(
    root: Path, later: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = clicks(root, 6)
    compact(CorrectionLog(root))
    later()
    delete = storage.delete

    def dies(uri: str) -> None:
        delete(uri)
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "delete", dies)
    for left in (6, 5, 4):
        with pytest.raises(KeyboardInterrupt):
            compact(CorrectionLog(root))
        assert len(parts(root)) == left
        assert CorrectionLog(root).read() == made


def test_two_at_once_never_delete_both_of_two_packs(
    root: Path, later: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = clicks(root, 5)
    first, second = CorrectionLog(root), CorrectionLog(root)
    seen = second.parts()
    compact(first)
    monkeypatch.setattr(second, "parts", lambda: seen)
    compact(second)
    assert len(parts(root)) == 7

    later()
    deleted: list[str] = []
    monkeypatch.setattr(storage, "delete", deleted.append)
    for log in (CorrectionLog(root), CorrectionLog(root)):
        compact(log)
    monkeypatch.undo()
    assert len(set(deleted)) == 6
    for uri in deleted:
        storage.delete(uri)
    assert len(parts(root)) == 1
    assert CorrectionLog(root).read() == made


def test_a_reader_that_listed_parts_before_they_went_reads_the_pack(
    root: Path, later: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = clicks(root, 5)
    compact(CorrectionLog(root))
    reader = CorrectionLog(root)
    before = reader._names()
    later()
    compact(CorrectionLog(root))
    listings = [before]
    names = reader._names
    monkeypatch.setattr(reader, "_names", lambda: listings.pop() if listings else names())
    assert reader.read() == made
    assert not listings
