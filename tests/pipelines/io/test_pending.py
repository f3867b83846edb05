from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from segray.pipelines.io import pending
from segray.pipelines.io.manifest import MANIFEST, ImageRef, read_manifest

REFS = [ImageRef(f"{name}.jpg", f"/data/{name}.jpg", 10, 1.5) for name in "abcd"]


def left(out: Path) -> list[str]:
    return [ref.image_id for ref in read_manifest(str(out / pending.PENDING))]


def test_what_is_not_done_is_left(tmp_path: Path) -> None:
    assert pending.refresh_manifest(str(tmp_path), REFS) == (4, set())
    pending.commit_manifest(str(tmp_path))
    assert list(read_manifest(str(tmp_path / MANIFEST))) == REFS
    assert pending.write_pending(str(tmp_path), {"b.jpg"}) == 3
    assert left(tmp_path) == ["a.jpg", "c.jpg", "d.jpg"]
    before = sorted(tmp_path.iterdir())
    assert pending.write_pending(str(tmp_path), {ref.image_id for ref in REFS}) == 0
    assert sorted(tmp_path.iterdir()) == before


def test_files_that_changed_are_reported_until_the_manifest_is_committed(tmp_path: Path) -> None:
    pending.refresh_manifest(str(tmp_path), REFS[1:])
    pending.commit_manifest(str(tmp_path))
    larger, later = replace(REFS[1], size=11), replace(REFS[3], mtime=2.0)
    for _ in range(2):
        assert pending.refresh_manifest(str(tmp_path), [REFS[0], larger, REFS[2], later]) == (
            4,
            {"b.jpg", "d.jpg"},
        )
    pending.commit_manifest(str(tmp_path))
    assert pending.refresh_manifest(str(tmp_path), [REFS[0], larger, later]) == (4, set())
