"""The page's requests: browse, look, correct, spread; and the figures that follow."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.corrections import CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.label_set.stored_segments import shown_pixels
from segray.pipelines.review.actions import Wanted
from segray.pipelines.review.background import Background
from segray.pipelines.review.review import Review
from tests.pipelines.label_sets import segment_row
from tests.pipelines.review.conftest import HEIGHT, NAMES, WIDTH, boxes, label, pixels, truth


def correct(page: TestClient, *corrections: dict[str, Any]) -> Any:
    """What the server answers to corrections."""
    fingerprint = page.get("/api/set").json()["fingerprint"]
    return page.post("/api/corrections", json={"set": fingerprint, "corrections": list(corrections)})


def label_of(page: TestClient, image: int) -> Any:
    """An image's label as the viewer shows it."""
    return pixels(page.get(f"/api/images/{image}/label.png").content)


def test_the_set_says_what_is_there_and_what_can_be_done(page: TestClient) -> None:
    about = page.get("/api/set").json()

    assert [one["name"] for one in about["classes"]] == ["background", "tree", "house"]
    assert (about["images"], about["segments"], about["corrected"]) == (3, 6, 0)
    assert (about["truth"], about["compare"], about["embeddings"]) == (True, False, True)
    assert about["counts"] == [3, 3, 0]


def test_images_are_found_by_name_class_and_range_and_come_in_pages(page: TestClient) -> None:
    def found(**values: Any) -> list[str]:
        return [tile["id"] for tile in page.get("/api/images", params=values).json()["images"]]

    assert found() == list(NAMES)
    assert found(offset=1, limit=1) == ["b.png"]
    assert found(text="SUB c") == ["sub/c.png"]
    assert found(classes="1") == list(NAMES)
    assert found(classes="1,2") == []
    assert found(confidence="0.57,") == ["sub/c.png"]
    assert found(sort="-id") == list(reversed(NAMES))
    assert page.get("/api/images", params={"sort": "-id", "find": 2}).json()["place"] == 0
    assert page.get("/api/images", params={"text": "sub", "find": 0}).json()["place"] is None
    assert found(state="corrected") == []


def test_an_image_shows_its_photo_label_confidence_and_mask(page: TestClient) -> None:
    photo = page.get("/api/images/1/photo.jpg")

    assert photo.headers["content-type"] == "image/jpeg"
    assert pixels(photo.content).shape == (HEIGHT, WIDTH, 3)
    assert abs(int(pixels(photo.content).mean()) - 100) < 3
    assert np.array_equal(label_of(page, 1), label())
    assert np.array_equal(pixels(page.get("/api/images/1/truth.png").content), truth())
    assert set(np.unique(pixels(page.get("/api/images/1/confidence.png").content))) == {0, 200}


def test_a_segment_that_is_named_is_stored_beside_the_labels_and_shown(
    page: TestClient, labels: Path
) -> None:
    parts = sorted((labels / "labels").iterdir())
    before = [part.read_bytes() for part in parts]

    answer = correct(page, {"image": 0, "kind": "name", "segments": [0], "class": "house"})

    assert answer.status_code == 200
    assert np.array_equal(label_of(page, 0), truth())
    tile = answer.json()["images"][0]
    assert (tile["corrected"], tile["errors"], tile["classes"]) == (True, 0.0, [[1, 0.2], [2, 0.1467]])
    (stored,) = CorrectionLog(labels).read()
    assert (stored.image, stored.kind, stored.class_name, stored.who) == ("a.png", "name", "house", "ada")
    assert [part.read_bytes() for part in parts] == before
    assert page.get("/api/images", params={"classes": "2"}).json()["total"] == 1


def test_undo_takes_a_correction_back_and_undo_of_that_does_it_again(page: TestClient) -> None:
    (key,) = correct(page, {"image": 0, "kind": "erase", "segments": [1]}).json()["keys"]
    erased = label_of(page, 0)

    (undo,) = correct(page, {"image": 0, "kind": "undo", "target": key}).json()["keys"]
    assert np.array_equal(label_of(page, 0), label())
    assert page.get("/api/set").json()["corrected"] == 0
    correct(page, {"image": 0, "kind": "undo", "target": undo})

    assert np.array_equal(label_of(page, 0), erased)
    assert not erased[boxes()[1]].any()


def test_a_lasso_splits_and_a_brush_paints_pixels(page: TestClient) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[:, :15] = True
    counts = encode_rle(segment_from_mask(mask), HEIGHT, WIDTH)[1].decode()

    correct(page, {"image": 0, "kind": "split", "segments": [0], "class": "house", "mask": counts})
    correct(page, {"image": 1, "kind": "paint", "class": "house", "mask": counts})

    assert np.array_equal(label_of(page, 0), np.where(mask & boxes()[0], 2, label()))
    assert np.array_equal(label_of(page, 1), np.where(mask, 2, label()))


def test_an_image_is_marked_as_good_and_left_out_of_what_is_open(page: TestClient) -> None:
    correct(page, {"image": 2, "kind": "good"})

    assert [one["n"] for one in page.get("/api/images", params={"state": "open"}).json()["images"]] == [0, 1]
    assert page.get("/api/images", params={"state": "good"}).json()["total"] == 1


def test_similar_segments_of_other_images_are_offered_with_their_distance(page: TestClient) -> None:
    correct(page, {"image": 0, "kind": "name", "segments": [0], "class": "house"})

    found = page.get("/api/segments/0/alike", params={"class": 2}).json()["segments"]

    assert [(one["id"], one["number"]) for one in found[:2]] == [("b.png", 0), ("sub/c.png", 0)]
    assert 0 < found[0]["distance"] < found[1]["distance"] < 0.05 < found[2]["distance"]
    assert [one["alike"] for one in found] == [True, True, False, False, False]
    crop = page.get(f"/api/segments/{found[0]['row']}/crop.jpg")
    assert pixels(crop.content).shape[2] == 3


def test_what_hands_have_classed_is_not_offered_again(page: TestClient) -> None:
    correct(page, {"image": 0, "kind": "name", "segments": [0], "class": "house"})
    correct(
        page, {"image": 1, "kind": "name", "segments": [0], "class": "tree"}, {"image": 2, "kind": "good"}
    )

    found = page.get("/api/segments/0/alike", params={"class": 2}).json()["segments"]

    assert [(one["id"], one["number"]) for one in found] == [("a.png", 1), ("b.png", 1)]


def test_the_first_correction_does_not_wait_for_the_label_set(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_all(*_: object) -> None:
        raise AssertionError("columns of all parts are read")

    monkeypatch.setattr(LabelStore, "columns", read_all)

    assert correct(page, {"image": 0, "kind": "name", "segments": [0], "class": "house"}).status_code == 200


@pytest.mark.parametrize("damaged", [False, True])
def test_what_follows_a_correction_begins_once_its_labels_are_there(
    review: Review, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    def fail(*_: object) -> None:
        raise UserError("damaged")

    known: list[list[int]] = []
    monkeypatch.setattr(Background, "again", lambda _: known.append(list(review.marks.shares)))
    if damaged:
        monkeypatch.setattr(review, "corrected", fail)
    with suppress(UserError):
        review.correct([Wanted(0, "name", (0,), "house")])

    assert known == 2 * [[] if damaged else [0]]


def test_corrections_of_another_person_appear(page: TestClient, labels: Path, review: Review) -> None:
    log = CorrectionLog(labels)
    log.append([log.make("b.png", "name", segments=[0], class_name="house", who="bob")])

    review.corrections.refresh(now=True)

    assert np.array_equal(label_of(page, 1), truth())
    assert page.get("/api/images/1").json()["history"][0]["who"] == "bob"
    assert review.marks.corrected.tolist() == [False, True, False]


def test_images_are_found_by_the_classes_that_another_person_gave(
    page: TestClient, labels: Path, review: Review
) -> None:
    log = CorrectionLog(labels)
    named = log.make("b.png", "name", segments=[0], class_name="house", who="bob")

    def houses() -> int:
        review.corrections.refresh(now=True)
        review.catch_up()
        total: int = page.get("/api/images", params={"classes": "2"}).json()["total"]
        return total

    log.append([named])
    assert houses() == 1
    log.append([log.make("b.png", "undo", target=named.key, who="bob")])
    assert houses() == 0


def test_labels_are_compared_with_the_masks(page: TestClient, review: Review) -> None:
    review.scorer.run()

    wrong = boxes()[0].sum() / (HEIGHT * WIDTH)
    assert page.get("/api/progress").json()["errors"] == pytest.approx(wrong)
    assert page.get("/api/images").json()["images"][0]["errors"] == pytest.approx(wrong, abs=1e-4)
    assert page.get("/api/images", params={"errors": "0.5,"}).json()["total"] == 0


def test_names_need_a_label_set_that_says_how_it_was_made(page: TestClient) -> None:
    answer = page.get("/api/naming")

    assert answer.status_code == 422
    assert answer.json()["error"] == "names: the label set does not say with which prompts it was made"


def test_what_is_next_is_uncertain_and_not_corrected(page: TestClient, review: Review) -> None:
    nothing = {"image": None, "segment": None}
    assert page.post("/api/next").json() == {**nothing, "ready": False}
    review.queue.order()
    assert page.get("/api/images", params={"sort": "next"}).json()["images"][0]["rank"] == 0

    shown = [page.post("/api/next").json() for _ in range(2)]
    assert all(one["ready"] for one in shown)
    # The first segments have the smallest margins, and look alike.
    assert [one["segment"] for one in shown] == [0, 1]

    correct(page, {"image": 1, "kind": "name", "segments": [0], "class": "house"})
    correct(page, {"image": 0, "kind": "good"})
    review.queue.order()
    rest = [page.post("/api/next").json() for _ in range(6)]
    given = {(one["image"], one["segment"]) for one in [*shown, *rest] if one["image"] is not None}
    assert rest[-1] == {**nothing, "ready": True}
    assert {(1, 1), (2, 0), (2, 1)} <= given
    assert page.get("/api/images/0").json()["rank"] is None

    # All were shown, and what was not corrected comes again.
    review.queue.order()
    assert page.post("/api/next").json()["image"] in (1, 2)


def test_a_segment_that_smaller_ones_cover_is_not_next(
    page: TestClient, review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = boxes()
    left[8:] = False
    rows = [_row(0, right), _row(1, left | right)]
    np.testing.assert_array_equal(shown_pixels(rows, HEIGHT, WIDTH), [right.sum(), left.sum()])
    stored = review.rows.segments
    monkeypatch.setattr(review.queue, "_segments_of", lambda image: stored(image) if image else rows)
    review.index.segments.area[1] = rows[1]["area"]
    review.queue.order()

    given = [page.post("/api/next").json() for _ in range(5)]

    assert sorted((one["image"], one["segment"]) for one in given) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert page.post("/api/next").json()["image"] is None
    # The covered one is never shown, and the others come again.
    review.queue.order()
    assert page.post("/api/next").json()["image"] is not None


def _row(number: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    return segment_row("a.png", number, mask)
