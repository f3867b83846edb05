from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import review
from segray.pipelines.commands.evaluate import evaluate
from segray.pipelines.corrections.suggestions import unit
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


def test_a_click_settles_the_doubt_of_what_is_alike() -> None:
    rows = unit(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 0.0]]))
    doubt = np.array([0.5, 1.0, 0.5, 0.1], np.float32)
    pixels = np.array([10, 20, 40, 10])
    # 5 + 20 twice, 20 alone, and 1 without an embedding.
    np.testing.assert_allclose(review.doubt_settled(doubt, rows, pixels, 0.9), [1, 1, 0.8, 0.04], rtol=1e-6)
    assert review.doubt_settled(doubt[:0], rows[:0], pixels[:0], 0.9).size == 0


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
