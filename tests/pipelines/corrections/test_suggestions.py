from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import segray
from segray.pipelines.commands.suggest import SuggestResult, execute
from segray.pipelines.config.commands.suggest import SuggestConfig
from segray.pipelines.config.loading import load
from segray.pipelines.corrections import CorrectionLog, suggestions
from segray.pipelines.corrections.suggestions import (
    Candidates,
    doubt_settled,
    next_images,
    next_segments,
    ranked_doubt,
    unit,
)
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import write_part
from tests.pipelines.exporting.labelled import IDS as BLOBS
from tests.pipelines.exporting.labelled import write_labels
from tests.pipelines.label_sets import IDS, ok_row, segment_rows, tables, write_set


def candidates(
    margin: list[float], directions: list[tuple[float, float]], classes: list[int] | None = None
) -> Candidates:
    """Segments of one size, whose classes have no mean: nearer ones than a right angle spread."""
    ids = np.array(classes or [1] * len(margin), np.int32)
    rows = np.array(directions).reshape(-1, 2)
    means = np.zeros((int(ids.max(initial=0)) + 1, 2), np.float32)
    return Candidates(rows, np.array(margin), np.full(len(margin), 100), ids, means)


def chosen(found: Candidates, n: int, done: tuple[int, ...] = (), recent: tuple[int, ...] = ()) -> list[int]:
    return next_segments(found, np.isin(np.arange(len(found.margin)), done), n, recent).tolist()


APART = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)]


def test_the_least_certain_come_first() -> None:
    assert chosen(candidates([0.9, 0.1, 0.5], APART), 3) == [1, 2, 0]
    assert chosen(candidates([0.9, 0.1, 0.5], APART), 9) == [1, 2, 0]
    assert chosen(candidates([], []), 3) == []


def test_the_larger_of_two_as_uncertain_comes_first() -> None:
    found = candidates([0.5, 0.5, 0.5], APART)
    found.area[:] = 100, 200, 900
    assert chosen(found, 1) == [2]


def test_a_copy_of_what_is_chosen_or_settled_comes_last() -> None:
    found = candidates([0.1, 0.2, 0.9], [(1.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
    assert chosen(found, 3) == [0, 2, 1]
    assert chosen(found, 2, done=(1,)) == [2, 0]


def test_one_that_spreads_to_many_settles_their_doubt() -> None:
    found = candidates([0.0, 0.5, 0.6, 0.7], [(-1.0, 0.0), (1.0, 0.1), (1.0, 0.0), (1.0, -0.1)])
    assert chosen(found, 1) == [1]
    # More like their class than like each other: nothing spreads.
    found.class_means[1] = 2.0, 0.0
    assert chosen(found, 1) == [0]


def test_doubt_settled_is_that_of_what_a_spread_marks() -> None:
    rows = unit(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 0.0]]))
    likeness = np.array([0.9, 0.9, 0.9, 0.0], np.float32)
    doubt = np.array([5, 20, 20, 1], np.float32)
    # 5 + 20 twice, 20 alone, and 1 without an embedding, which is like nothing, not even itself.
    np.testing.assert_allclose(doubt_settled(rows, likeness, doubt), [1, 1, 0.8, 0.04], rtol=1e-6)
    assert doubt_settled(rows[:0], likeness[:0], doubt[:0]).size == 0


def test_of_ten_in_a_row_each_class_has_its_share() -> None:
    classes = [1] * 12 + [2] * 12
    turns = [(np.cos(a), np.sin(a)) for a in np.linspace(0, 3, 24)]
    found = candidates(np.linspace(0, 1, 24).tolist(), turns, classes)
    order = np.array(classes)[chosen(found, 20)]
    assert [(order[i : i + 10] == 1).sum() for i in range(11)] == [5] * 11
    assert classes[chosen(found, 1, recent=(1,) * 5)[0]] == 2
    # Where a class has too few, the others fill up.
    assert sorted(chosen(found, 30)) == list(range(24))


def test_of_many_segments_a_sample_by_doubt_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestions, "_POOL", 16)
    turns = [(np.cos(a), np.sin(a)) for a in np.linspace(0, 3, 400)]
    found = candidates([0.1] * 200 + [0.9] * 200, turns)
    found.area[200:] = 1
    found.area[:200] = 100_000
    order = chosen(found, 5)
    assert len(set(order)) == 5
    assert max(order) < 200


def test_ranked_doubt() -> None:
    np.testing.assert_allclose(ranked_doubt(np.array([3.0, 1.0, np.nan, 2.0])), [0.25, 0.75, 1.0, 0.5])
    assert ranked_doubt(np.array([])).size == 0


def test_an_image_is_chosen_once_and_settles_all_of_its_segments() -> None:
    found = candidates([0.1, 0.2, 0.3, 0.9], [(1.0, 0.0), (0.0, 1.0), (0.0, 1.0), (-1.0, 0.0)])
    image = np.array([7, 7, 8, 9])
    assert next_images(found, image, np.zeros(4, bool), 9).tolist() == [7, 9, 8]


def test_images_are_as_uncertain_as_their_segments(tmp_path: Path) -> None:
    names = IDS[:3]
    segments = []
    for number, (name, margin) in enumerate(zip(names, (0.3, 0.1, 0.2), strict=True)):
        for one in segment_rows(name):
            vector = np.zeros(len(one["embedding"]), np.float16)
            vector[number] = 1
            segments.append({**one, "margin": margin, "area": 10, "embedding": vector})
    write_part(str(tmp_path), *tables([ok_row(name) for name in names], segments))
    assert run(tmp_path, n=3).images == (names[1], names[2], names[0])


def run(labels: Path, **keys: object) -> SuggestResult:
    return execute(load(SuggestConfig, None, [f"{k}={v}" for k, v in {"labels": labels, **keys}.items()]))


def test_corrected_images_are_left_out(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    log = CorrectionLog(tmp_path / "set")
    one = log.make(IDS[0], "good")
    log.append([one])
    first = run(tmp_path / "set", n=10)
    assert sorted(first.images) == sorted(IDS[1:-1])
    assert str(first).splitlines()[0] == first.images[0].replace("\n", "\\n")
    log.append([log.make(IDS[0], "undo", target=one.key)])
    assert sorted(run(tmp_path / "set", n=10).images) == sorted(IDS[:-1])
    log.append([log.make(name, "good") for name in IDS[:-1]])
    with pytest.raises(UserError, match="every labelled image has corrections"):
        run(tmp_path / "set")


def test_a_list(tmp_path: Path) -> None:
    labels = write_labels(tmp_path)
    result = run(labels, n=2, out=tmp_path / "next.txt")
    assert (tmp_path / "next.txt").read_text().splitlines() == list(result.images)
    assert (len(result.images), result.left) == (2, 2)
    assert "2 of 4 without corrections" in str(result)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        run(labels, out=tmp_path / "folder")


@pytest.mark.parametrize(("form", "file"), [("cvat", "annotations.xml"), ("labelstudio", "tasks.json")])
def test_a_task_comes_back_as_corrections(tmp_path: Path, form: str, file: str) -> None:
    labels = write_labels(tmp_path)
    result = segray.suggest(labels=labels, n=2, format=form, out=tmp_path / "task")
    assert result.export is not None
    assert result.export.images == {"train": 2, "val": 0}
    assert {
        str(p.relative_to(tmp_path / "task/images")) for p in (tmp_path / "task/images").rglob("*.png")
    } == set(result.images)
    source = tmp_path / "task" / file
    if form == "labelstudio":
        tasks = json.loads(source.read_text())
        source.write_text(json.dumps([{**task, "annotations": task["predictions"]} for task in tasks]))
    taken = segray.import_masks(labels=labels, good="all", **{"from": source})
    assert (taken.good, taken.pixels) == (2, 0)
    assert set(run(labels, n=9).images) == set(BLOBS) - set(result.images)
    with pytest.raises(UserError, match=r"^out: format=cvat needs a new folder"):
        run(labels, format="cvat")
