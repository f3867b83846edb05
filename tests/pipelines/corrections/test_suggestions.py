from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import segray
from segray.pipelines.commands.suggest import SuggestResult, execute
from segray.pipelines.config.commands.suggest import SuggestConfig
from segray.pipelines.config.loading import load
from segray.pipelines.corrections import CorrectedStore, CorrectionLog
from segray.pipelines.corrections.suggestions import (
    Candidates,
    embedding_matrix,
    image_candidates,
    ranked_doubt,
    suggestions,
    unit,
)
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import write_part
from tests.pipelines.exporting.labelled import IDS as BLOBS
from tests.pipelines.exporting.labelled import write_labels
from tests.pipelines.label_sets import IDS, ok_row, segment_rows, tables, write_set


def candidates(doubt: list[float], directions: list[tuple[float, float]], classes: list[int]) -> Candidates:
    rows = unit(np.array(directions).reshape(-1, 2))
    return Candidates(np.array(doubt, np.float32), rows, np.array(classes))


APART = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)]


def test_the_least_certain_come_first() -> None:
    assert suggestions(candidates([0.1, 0.9, 0.5], APART, [1, 1, 1]), 3).tolist() == [1, 2, 0]
    assert suggestions(candidates([0.1, 0.9, 0.5], APART, [1, 1, 1]), 9).tolist() == [1, 2, 0]
    assert suggestions(candidates([], [], []), 3).size == 0


def test_a_copy_of_what_is_chosen_or_done_comes_last() -> None:
    found = candidates([0.9, 0.8, 0.1], [(1.0, 0.0), (1.0, 0.0), (0.0, 1.0)], [1, 1, 1])
    assert suggestions(found, 3).tolist() == [0, 2, 1]
    done = unit(np.array([[1.0, 0.0]]))
    assert suggestions(found, 1, done).tolist() == [2]


def test_doubt_counts_times_distance() -> None:
    near, far = (1.0, 0.2), (0.0, 1.0)
    found = candidates([1.0, 0.9, 0.5], [(1.0, 0.0), near, far], [1, 1, 1])
    # 0.9 * 0.02 is less than 0.5 * 1.
    assert suggestions(found, 2).tolist() == [0, 2]


def test_each_class_has_its_share() -> None:
    doubt = [0.9, 0.8, 0.7, 0.6, 0.2, 0.1]
    turns = [(np.cos(a), np.sin(a)) for a in np.linspace(0, 3, 6)]
    found = candidates(doubt, turns, [1, 1, 1, 1, 2, 3])
    assert sorted(np.array([1, 1, 1, 1, 2, 3])[suggestions(found, 3)].tolist()) == [1, 2, 3]
    # Where a class has too few, the others fill up.
    assert sorted(suggestions(found, 6).tolist()) == [0, 1, 2, 3, 4, 5]


def test_ranked_doubt() -> None:
    np.testing.assert_allclose(ranked_doubt(np.array([3.0, 1.0, np.nan, 2.0])), [0.25, 0.75, 1.0, 0.5])
    assert ranked_doubt(np.array([])).size == 0


def test_images_are_as_uncertain_as_the_margins_of_their_segments(tmp_path: Path) -> None:
    names = IDS[:3]
    segments = []
    for name, margin in zip(names, (0.3, 0.1, 0.2), strict=True):
        first, second = segment_rows(name)
        segments += [{**first, "margin": margin}, {**second, "margin": margin}]
    write_part(str(tmp_path), *tables([ok_row(name) for name in names], segments))
    found = image_candidates(CorrectedStore(str(tmp_path)))
    assert sorted(found.ids) == sorted(names)
    doubt = dict(zip(found.ids, found.candidates.doubt.tolist(), strict=True))
    assert sorted(doubt, key=doubt.__getitem__) == [names[0], names[2], names[1]]
    np.testing.assert_allclose(np.linalg.norm(found.candidates.embeddings, axis=1), 1, atol=1e-3)
    assert found.next(1) == [names[1]]


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


def test_embeddings_of_any_chunk_are_those_of_their_rows() -> None:
    kind = pa.list_(pa.float16(), 2)
    values = [[3.0, 4.0], None, [float("inf"), 1.0], [0.0, -2.0], [1.0, 0.0]]
    rows = pa.array([None if v is None else np.array(v, np.float16) for v in values], kind)
    column = pa.chunked_array([rows.slice(1, 2), rows.slice(3), rows.slice(0, 1)])
    expected = np.array([[0, 0], [0, 1], [0, -1], [1, 0], [0.6, 0.8]])
    np.testing.assert_allclose(embedding_matrix(column), expected, atol=1e-3)
    assert embedding_matrix(pa.chunked_array([pa.nulls(3)])).shape == (3, 0)
