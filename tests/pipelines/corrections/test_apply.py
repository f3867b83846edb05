from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from segray.models.label_map import SegmentClasses, render_label_map
from segray.models.masks import Segment, segment_from_mask
from segray.pipelines.annotation.stages.encode import segment_rows
from segray.pipelines.corrections import Correction, StoredLabel, apply_corrections
from tests.pipelines.corrections.small_image import (
    ABOVE,
    BELOW,
    CLASSES,
    HIDDEN,
    LABEL,
    correction,
    key,
    picture,
    pixels,
    rle,
    stored,
)

NAME_BELOW = correction(1, "name", segments=(BELOW,), class_name="house")
NAME_ABOVE = correction(2, "name", segments=(ABOVE,), class_name="tree")
SPLIT = correction(1, "split", segments=(BELOW,), mask=rle("...... ...... ##.### ......"), class_name="house")
SHAPE = (16, 20)
MERGE = correction(1, "merge", segments=(BELOW, ABOVE), class_name="tree")
PAINT = correction(2, "paint", mask=rle("..###. ...... ...... ......"), class_name="house")
RENAME = correction(3, "name", segments=(BELOW,), class_name="background")


@pytest.mark.parametrize(
    ("corrections", "label", "hand"),
    [
        pytest.param([], LABEL, "...... ...... ...... ......", id="nothing"),
        pytest.param(
            [NAME_BELOW],
            "222200 222200 222200 222200",
            "##.... ##.... ####.. ####..",
            id="only what is seen of the lower segment",
        ),
        pytest.param([NAME_ABOVE], "111100 111100 111100 111100", "..##.. ..##.. ...... ......", id="upper"),
        pytest.param(
            [correction(1, "name", segments=(HIDDEN,), class_name="house")],
            "112200 122200 121100 111100",
            "...... .#.... .#.... ......",
            id="a segment that was not drawn",
        ),
        pytest.param(
            [correction(1, "name", segments=(ABOVE,))],
            "11xx00 11xx00 111100 111100",
            "..##.. ..##.. ...... ......",
            id="unknown",
        ),
        pytest.param(
            [correction(1, "erase", segments=(BELOW,))],
            "002200 002200 000000 000000",
            "##.... ##.... ####.. ####..",
            id="erase",
        ),
        pytest.param(
            [MERGE, correction(2, "name", segments=(ABOVE,), class_name="house")],
            "222200 222200 222200 222200",
            "####.. ####.. ####.. ####..",
            id="a merged segment is named as a whole",
        ),
        pytest.param(
            [SPLIT],
            "112200 112200 221200 111100",
            "...... ...... ##.#.. ......",
            id="split inside its segment",
        ),
        pytest.param(
            [SPLIT, RENAME],
            "002200 002200 220200 000000",
            "##.... ##.... ####.. ####..",
            id="what was split off is not its segment's",
        ),
        pytest.param([PAINT], "112220 112200 111100 111100", "..###. ...... ...... ......", id="paint"),
        pytest.param(
            [PAINT, correction(4, "name", segments=(ABOVE,), class_name="tree")],
            "111120 111100 111100 111100",
            "..###. ..##.. ...... ......",
            id="later wins over paint",
        ),
    ],
)
def test_corrections_by_hand(corrections: list[Correction], label: str, hand: str) -> None:
    before = stored()
    corrected = apply_corrections(before, corrections[::-1])
    np.testing.assert_array_equal(corrected.label, picture(label))
    np.testing.assert_array_equal(corrected.hand, pixels(hand))
    sure = np.where(corrected.label == 255, 0, 255)
    np.testing.assert_array_equal(corrected.confidence, np.where(corrected.hand, sure, before.confidence))
    np.testing.assert_array_equal(before.label, picture(LABEL))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_later_of_two_names_wins_whoever_is_read_first(order: tuple[int, int]) -> None:
    first = correction(order[0], "name", segments=(BELOW,), class_name="house")
    second = correction(order[1], "name", segments=(BELOW,), class_name="background")
    corrected = apply_corrections(stored(), [first, second])
    assert corrected.segments == {BELOW: 0 if order == (1, 2) else 2, ABOVE: 2, HIDDEN: 0}
    assert corrected.label[3, 0] == corrected.segments[BELOW]


def test_undo_and_redo() -> None:
    undo = correction(3, "undo", target=NAME_BELOW.key)
    redo = correction(4, "undo", target=undo.key)
    undone = apply_corrections(stored(), [NAME_BELOW, NAME_ABOVE, undo])
    np.testing.assert_array_equal(undone.label, picture("111100 111100 111100 111100"))
    np.testing.assert_array_equal(undone.hand, pixels("..##.. ..##.. ...... ......"))
    redone = apply_corrections(stored(), [redo, undo, NAME_ABOVE, NAME_BELOW])
    np.testing.assert_array_equal(redone.label, picture("221100 221100 222200 222200"))


def test_a_good_image_is_a_mask_as_a_whole_and_another_one_only_where_a_hand_was() -> None:
    partly = apply_corrections(stored(), [NAME_ABOVE])
    np.testing.assert_array_equal(partly.trusted(255), picture("xx11xx xx11xx xxxxxx xxxxxx"))
    good = correction(3, "good")
    whole = apply_corrections(stored(), [NAME_ABOVE, good])
    assert whole.good
    assert not whole.hand[3, 3]
    np.testing.assert_array_equal(whole.trusted(255), whole.label)
    assert not apply_corrections(stored(), [good, correction(4, "undo", target=good.key)]).good


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (correction(1, "name", segments=(7,), class_name="tree"), "segment 7 is none of the image's 3"),
        (correction(1, "name", segments=(0,), class_name="ship"), "class 'ship' is none of the label set's"),
        (correction(1, "paint", size=(6, 4), mask=b"h0"), "a mask of 4x6 pixels on another image"),
    ],
)
def test_what_does_not_fit_the_image_is_refused(wrong: Correction, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_corrections(stored(), [wrong])


def test_a_key_that_was_undone_stays_undone_for_equal_corrections() -> None:
    again = correction(5, "name", segments=(BELOW,), class_name="house")
    undo = correction(3, "undo", target=key(1))
    assert apply_corrections(stored(), [NAME_BELOW, undo, again]).segments[BELOW] == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_named_segment_is_drawn_as_annotation_would_have_drawn_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    segments = [_box_segment(rng) for _ in range(8)]
    classes = _classes(rng.integers(0, 3, 8), rng.random(8))
    label, confidence = render_label_map(segments, classes, *SHAPE)
    rows = segment_rows(segments, classes, None, *SHAPE)
    before = StoredLabel(label, confidence, cast("list[dict[str, Any]]", rows), CLASSES, 255)
    for k in range(8):
        named = correction(1, "name", segments=(k,), class_name="house", size=SHAPE)
        ids = classes.class_id.copy()
        ids[k] = 2
        expected, _ = render_label_map(segments, _classes(ids, classes.score), *SHAPE)
        np.testing.assert_array_equal(apply_corrections(before, [named]).label, expected)


def _box_segment(rng: np.random.Generator) -> Segment:
    y, x = rng.integers(0, SHAPE[0] - 5), rng.integers(0, SHAPE[1] - 5)
    mask = np.zeros(SHAPE, bool)
    mask[y : y + rng.integers(2, 6), x : x + rng.integers(2, 6)] = True
    return segment_from_mask(mask)


def _classes(ids: NDArray[np.int64] | NDArray[np.int16], score: NDArray[Any]) -> SegmentClasses:
    sure, n = score.astype(np.float32), len(ids)
    runner_up = np.zeros(n, np.int16)
    return SegmentClasses(ids.astype(np.int16), sure, sure, sure, runner_up, np.ones(n, np.bool_))
