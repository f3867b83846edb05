"""Full, read-only and foreign folders, and damaged parts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from segray.pipelines.commands import annotate
from segray.pipelines.label_set.part_files import damage
from tests.faults.invariant import check_invariant, files
from tests.faults.runs import N_PARTS, ROWS_PER_PART, finished_parts, overrides, segray, tmpfs

pytestmark = pytest.mark.ray


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the command line, among the lines of progress."""
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("segray: ")]
    return line


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a model would be loaded."""

    def load(*arguments: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(annotate, "open_models", load)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_disk_full(images: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    pages = sum(-(-len(data) // 4096) for data in files(reference).values())
    # Room for about half the parts.
    with tmpfs(disk, kilobytes=pages * 4 * 6 // 10) as remount:
        out = disk / "out"
        assert segray("annotate", *overrides(images, out)) == 1
        message = complaint(capsys)
        assert "No space left on device" in message
        assert "safe" in message
        assert "the same command" in message
        assert 0 < len(finished_parts(out)) < N_PARTS
        assert [path.name for path in out.glob("*/part-*") if damage(path.read_bytes())] == []
        assert not (out / "run.json").exists()
        remount("size=20m")
        assert segray("annotate", *overrides(images, out)) == 0
        check_invariant(out, images, overrides(images, out), reference)


def test_read_only_output(
    images: Path, tmp_path: Path, no_models: None, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    with tmpfs(disk, kilobytes=1000) as remount:
        remount("ro")
        for out in (disk, disk / "new" / "out"):
            assert segray("annotate", *overrides(images, out)) == 2
            message = complaint(capsys)
            assert f"out={out} cannot be written to" in message
            assert "read-only file system" in message


def test_foreign_files_in_the_output(
    images: Path, tmp_path: Path, no_models: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    before = files(tmp_path)
    assert segray("annotate", *overrides(images, tmp_path)) == 2
    message = complaint(capsys)
    assert f"out={tmp_path} holds 1 files of something else (thesis.tex)" in message
    assert "allowed: a new or empty folder" in message
    assert files(tmp_path) == before


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_truncate, ": truncated or not Parquet"),
    "flipped": (_flip_a_bit, ": changed after it was written (checksum differs)"),
    "emptied": (_empty, ": empty file"),
    "deleted": (Path.unlink, " is missing"),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_damaged_parts_are_named_and_made_again(
    images: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(reference, out)
    # Each kind of damage once in the labels and once in the segments.
    broken = dict(zip(product(("labels", "segments"), DAMAGE), finished_parts(out), strict=False))
    for (folder, kind), part in broken.items():
        DAMAGE[kind][0](out / folder / part)
    assert segray("verify", f"out={out}") == 1
    seen = capsys.readouterr()
    assert "repair=true" in seen.err
    for (folder, kind), part in broken.items():
        assert f"{part}  {folder} file{DAMAGE[kind][1]}" in seen.out
    before = files(out)

    assert segray("verify", f"out={out}", "repair=true", f"images={images}") == 0

    assert f"labelling {ROWS_PER_PART * len(broken)} images again" in capsys.readouterr().err
    after = files(out)
    whole = [name for name in before if "part-" in name and Path(name).name not in broken.values()]
    assert len(whole) == 2 * (N_PARTS - len(broken))
    assert [name for name in whole if after[name] != before[name]] == []
    check_invariant(out, images, overrides(images, out), reference)
