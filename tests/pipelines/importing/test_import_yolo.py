"""Polygons of YOLO come back as corrections."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from segray.pipelines.errors import UserError
from tests.pipelines.exporting.labelled import (
    HEIGHT,
    IDS,
    LABELS,
    RECORD,
    WIDTH,
    export,
    no_ignored,
    write_labels,
)
from tests.pipelines.importing.taking import refused, shown, take, zipped
from tests.pipelines.label_set.small_store import ok_row, png, write_store

ONE, TWO = IDS[:2]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path)


def yolo_files(labels: Path, out: Path) -> dict[str, bytes]:
    """The files of an export, by their paths."""
    export(labels, out, format="yolo-seg", val=0.25)
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_yolo_that_is_exported_and_imported_unchanged(labels: Path, tmp_path: Path) -> None:
    files = yolo_files(labels, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "images")
    assert take(labels, tmp_path / "out", good="none").pixels == sum(
        int((label == 255).sum()) for label in LABELS.values()
    )
    assert all(np.array_equal(label, no_ignored(LABELS[name])) for name, label in shown(labels).items())
    for source in (tmp_path / "out" / "data.yaml", zipped(files, tmp_path / "yolo.zip")):
        assert take(labels, source, format="yolo").unchanged == 4


def test_a_changed_polygon_of_yolo_is_the_label_then(labels: Path, tmp_path: Path) -> None:
    """Labels of another program, without data.yaml; an empty file says nothing of its image."""
    folder = tmp_path / "yolo" / "labels" / "a"
    folder.mkdir(parents=True)
    (tmp_path / "yolo" / "classes.txt").write_text("rider\ncar\n")
    (folder / "one.txt").write_text("")
    (folder / "two three.txt").write_text("0 0 0 0.5 0 0.5 0.5 0 0.5\n1 0 0 0.25 0 0.25 0.25 0 0.25\n")
    result = take(labels, tmp_path / "yolo")
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[: HEIGHT // 2, : WIDTH // 2], expected[: HEIGHT // 4, : WIDTH // 4] = 3, 2
    np.testing.assert_array_equal(shown(labels)[TWO], expected)
    assert (result.changed, result.unchanged, result.good) == (1, 0, 1)
    files = {
        str(p.relative_to(tmp_path / "yolo")): p.read_bytes() for p in (tmp_path / "yolo").rglob("*.txt")
    }
    archive = zipped({**files, "notes.json": b'{"categories": []}'}, tmp_path / "yolo.zip")
    assert take(labels, archive).unchanged == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"labels/a/one.txt": "0 0.5 0.5 0.2 0.2\n7 0 0 1 0 1 1"}, "one.txt, line 1: a box; boxes are no"),
        ({"labels/a/ghost.txt": "0 0 0 1 0 1 1"}, "labels/a/ghost.txt: a/ghost is no labelled image of"),
        ({"labels/a/one.txt": "1 0 0 1 0 1 1"}, "the mask of a/one.png has class 'pilot', which is none of"),
        ({"labels/a/one.txt": ""}, "no image in it has a mask"),
        ({"labels/a/one.txt": "0 0 0 1 0 1 1", "labels/b/one.txt": "0 0 0 1 0 1 1"}, "is there twice"),
        ({"data.yaml": "names: ["}, "data.yaml: not YAML"),
        ({"labels/classes.txt": "car"}, "no image in it has a mask"),
    ],
)
def test_labels_of_yolo_that_are_refused(
    labels: Path, tmp_path: Path, files: Mapping[str, str], message: str
) -> None:
    for name, text in {"data.yaml": "names: [car, pilot]", **files}.items():
        path = tmp_path / "yolo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert message in refused(labels, tmp_path / "yolo")


def test_masks_beside_class_names_are_masks(labels: Path, tmp_path: Path) -> None:
    masks = {str(Path(name).with_suffix(".png")): png(label) for name, label in LABELS.items()}
    for names in ({"data.yaml": b"names: [car]"}, {"classes.txt": b"car"}):
        assert take(labels, zipped({**masks, **names}, tmp_path / "masks.zip")).unchanged == 4
    packed = zipped({"labels/a.png": b"x", "classes.txt": b"car"}, tmp_path / "packed.zip")
    assert "YOLO" not in refused(labels, packed)


def test_a_description_of_another_name_is_asked_for(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "coco8.yaml").write_text("names: [car]")
    with pytest.raises(
        UserError, match=r"no data\.yaml, and no classes\.txt beside labels/; from=FILE\.yaml"
    ):
        take(labels, tmp_path / "yolo", format="yolo")


def test_a_label_file_of_two_images_is_refused(tmp_path: Path) -> None:
    rows = [ok_row(name, LABELS[ONE]) for name in ("a.jpg", "a.png")]
    labels = write_store(tmp_path / "labels", rows, provenance=RECORD)
    (tmp_path / "yolo" / "labels").mkdir(parents=True)
    (tmp_path / "yolo" / "data.yaml").write_text("names: [car]")
    (tmp_path / "yolo" / "labels" / "a.txt").write_text("0 0 0 1 0 1 1")
    text = refused(labels, tmp_path / "yolo")
    assert text.endswith("labels/a.txt could belong to a.jpg or a.png")
