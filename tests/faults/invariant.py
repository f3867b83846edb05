"""What must hold after every run and every resume, whatever has gone wrong before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segray.pipelines.commands import annotate
from segray.pipelines.commands.verify import verify
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load
from segray.pipelines.io.sources import list_images
from segray.pipelines.io.storage import is_temporary
from segray.pipelines.label_set.store import LabelStore

Row = dict[str, Any]


def check_invariant(
    out: Path,
    images: Path,
    overrides: Sequence[str],
    reference: Path | None = None,
    *,
    faulty: Sequence[str] = (),
) -> None:
    """Assert the promise that docs/faults.md makes.

    Ids out equal ids in and none is there twice, every ok row's label fits its image, every other row has a
    reason, nothing unfinished lies about, one more resume does nothing, and the rows equal an undisturbed
    run's byte for byte.

    Args:
        out: the label set.
        images: the folder it was made from.
        overrides: arguments of the command that made it.
        reference: an undisturbed run's label set of the same images.
        faulty: image_ids that are rightly no ok rows, and are left out of the comparison.
    """
    expected = [ref.image_id for ref in list_images(str(images))]
    for report in (verify(str(out)), verify(str(out), expected)):
        assert report.problems == []
        assert report.n_images == len(expected) > 0
    store = LabelStore(str(out))
    states = {image_id: status for image_id, status, _ in store.statuses()}
    assert sorted(i for i, status in states.items() if status != "ok") == sorted(faulty)
    assert unfinished(out) == []
    assert not (out / ".lock.json").exists()
    _check_resume_does_nothing(out, overrides)
    if reference is not None:
        wanted = contents(reference)
        rows = {i: row for i, row in contents(out).items() if i not in faulty}
        assert rows == {i: wanted[i] for i in rows}


def contents(out: Path) -> dict[str, tuple[Row, list[Row]]]:
    """image_id -> its row without run_id, PNG bytes included, and its segments."""
    store = LabelStore(str(out))
    rows: dict[str, tuple[Row, list[Row]]] = {}
    for row in store.rows():
        rows[row["image_id"]] = ({name: v for name, v in row.items() if name != "run_id"}, [])
    for part in store.parts():
        for segment in store.segments(part).to_pylist():
            rows[segment["image_id"]][1].append(segment)
    return rows


def unfinished(out: Path) -> list[str]:
    """Temporary files, and segments whose labels were never committed."""
    temporary = [str(path) for path in out.rglob("*") if is_temporary(path.name)]
    return temporary + LabelStore(str(out)).orphans()


def files(out: Path) -> dict[str, bytes]:
    """Every file of a label set with its bytes."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def _check_resume_does_nothing(out: Path, overrides: Sequence[str]) -> None:
    before = files(out)
    annotate.run(load(AnnotateConfig, None, list(overrides)))
    after = files(out)
    assert sorted(after) == sorted(before)
    assert [name for name in after if after[name] != before[name]] == []
