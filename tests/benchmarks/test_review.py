from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import review
from segray.pipelines.commands.evaluate import evaluate
from tests.benchmarks.programs import run
from tests.previous_version.archive import unpack


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("review"))


def person(root: Path, alike: float = 0.95) -> review.Person:
    return review.Person.of(str(root / "labels"), str(root / "book" / "masks"), alike)


def test_every_way_ends_with_the_same_labels(root: Path) -> None:
    before = person(root).miou
    assert before == pytest.approx(
        evaluate(str(root / "labels"), str(root / "book" / "masks")).miou, abs=1e-6
    )
    ends = []
    for way in review.WAYS:
        curve = review.curve(person(root, alike=2.0), way, 1)
        assert len(curve) == len(review.CLICKS)
        assert curve[0] == before
        ends.append(curve[-1])
    assert ends == [ends[0]] * len(ends)
    assert ends[0] > before + 0.05


def test_a_spread_takes_what_is_more_like_the_click_than_like_others(root: Path) -> None:
    one = person(root, alike=-1.0)
    first = 0
    one.click(first)
    assert one.spread(first) == list(range(1, len(one.ids)))
    other = next(k for k in range(len(one.ids)) if one.truth[k] != one.truth[first])
    one.click(other)
    nearer = (one.embeddings @ one.embeddings[other]) > (one.embeddings @ one.embeddings[first])
    assert set(one.spread(other)) <= set(nearer.nonzero()[0].tolist()) - {first, other}


def test_ten_clicks_as_corrections_are_scored_as_the_program_scores_them(tmp_path: Path) -> None:
    root = unpack(tmp_path)
    labels, masks = root / "labels", root / "book" / "masks"
    segments, before, after = review.correct(labels, masks, 0.95)
    assert segments >= review.TEN
    assert after > before
    assert evaluate(str(labels), str(masks)).miou == pytest.approx(after, abs=1e-6)


@pytest.mark.slow
def test_the_record_has_every_curve(tmp_path: Path) -> None:
    out = tmp_path / "review.json"
    words = [
        "--work",
        str(tmp_path / "work"),
        "--scenes",
        "6",
        "--seeds",
        "41",
        "--epochs",
        "0",
        "--out",
        str(out),
    ]
    record, printed = run(review.main, *words)
    assert record["curves"].keys() == review.WAYS.keys()
    assert [len(curve) for curve in record["curves"].values()] == [len(review.CLICKS)] * len(review.WAYS)
    assert "mIoU after clicks" in printed
