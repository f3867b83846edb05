from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import review
from segray.pipelines.commands.evaluate import evaluate
from segray.pipelines.review.review import Places, Review
from tests.benchmarks.programs import run
from tests.previous_version.archive import unpack


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("review"))


def person(root: Path) -> review.Person:
    return review.Person.of(str(root / "labels"), str(root / "book" / "masks"))


def test_every_way_ends_with_the_same_labels_but_for_what_is_covered(root: Path) -> None:
    before = person(root).miou
    assert before == pytest.approx(
        evaluate(str(root / "labels"), str(root / "book" / "masks")).miou, abs=1e-6
    )
    ends = []
    for way, (_, spread) in review.WAYS.items():
        one = person(root)
        curve = review.curve(one, way, 1)
        assert len(curve) == len(review.CLICKS)
        assert curve[0] == before
        if way.startswith("next"):
            assert spread == "accepted" or not (one.wrong & ~one.covered).any()
        elif spread != "accepted":
            ends.append(curve[-1])
    assert ends == [ends[0]] * len(ends)
    assert ends[0] > before + 0.05


def test_the_person_clicks_what_the_page_opens_and_accepts_what_it_marks(root: Path) -> None:
    labels = root / "labels"
    page = Review(Places(str(labels)))
    one = person(root)
    page.queue.order()
    row = page.queue.next()
    assert row is not None
    first = next(review.offered(one, np.random.default_rng(0)))
    image, number = one.ids[first]
    assert (page.index.images.ids[page.index.segments.image_of(row)], page.index.segments.number[row]) == (
        image,
        number,
    )
    one.click(first)
    marked = page.alike(row, int(one.truth[first]), review.OFFERED)
    segments = page.index.segments
    assert {one.ids[k] for k in one.spread(first)} == {
        (page.index.images.ids[segments.image_of(k)], int(segments.number[k]))
        for k in marked.found.rows[marked.alike].tolist()
    }


def test_ten_clicks_as_corrections_are_scored_as_the_program_scores_them(tmp_path: Path) -> None:
    root = unpack(tmp_path)
    labels, masks = root / "labels", root / "book" / "masks"
    segments, before, after = review.correct(labels, masks)
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
