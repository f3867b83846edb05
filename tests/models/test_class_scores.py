"""Classes of a labeller's segments: by all scores, and after classes are merged by the two best."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from segray.models.class_scores import classify_scores, merge_classes

Scores = NDArray[np.float32]


def scores(*rows: tuple[float, ...]) -> Scores:
    return np.array(rows, np.float32)


def test_the_best_class_its_margin_and_its_runner_up() -> None:
    found = classify_scores(scores((0.9, 0.2, 0.7, 0.6), (0.9, 0.3, 0.3, 0.1), (0, 0, 0, 0)), [1, 2, 3], 0.25)
    assert found.class_id.tolist() == [2, 1, 0]
    assert found.runner_up_class.tolist() == [3, 2, 2]
    assert found.has_class.tolist() == [True, True, False]
    np.testing.assert_allclose(found.margin, [0.1, 0, 0], atol=1e-6)
    assert (found.confidence == found.score).all()


def test_a_score_at_the_threshold_gives_no_class_and_one_class_has_no_runner_up() -> None:
    found = classify_scores(scores((0, 0.5), (0, 0.75)), [1], 0.5)
    assert found.class_id.tolist() == [0, 1]
    assert found.runner_up_class.tolist() == [-1, -1]
    np.testing.assert_array_equal(found.margin, found.score)


def test_no_segment_is_no_class() -> None:
    found = classify_scores(np.zeros((0, 3), np.float32), [1, 2], 0.5)
    assert merge_classes(found, np.array([0, 1, 1]), 0.5).class_id.shape == (0,)


@pytest.mark.parametrize("new_ids", [[0, 1, 1, 2], [0, 3, 2, 1], [0, 1, 0, 2], [0, 1, 2, 3], [0, 2, 1, 2]])
@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_merging_by_two_scores_is_merging_by_all(new_ids: list[int], threshold: float) -> None:
    """Without dropped classes: the best stays the best, and margins are lower bounds."""
    every = np.random.default_rng(5).random((200, 4)).astype(np.float32)
    every[:, 0] = 0
    merged = np.zeros((200, 4), np.float32)
    for old, new in enumerate(new_ids):
        merged[:, new] = np.maximum(merged[:, new], every[:, old])
    wanted = classify_scores(merged, sorted(set(new_ids[1:])), threshold)
    found = merge_classes(classify_scores(every, [1, 2, 3], 0.3), np.array(new_ids), threshold)
    np.testing.assert_array_equal(found.class_id, wanted.class_id)
    np.testing.assert_array_equal(found.score, wanted.score)
    np.testing.assert_array_equal(found.has_class, wanted.has_class)
    assert (found.margin <= wanted.margin + 1e-6)[found.has_class].all()
    known = found.has_class & (found.runner_up_class >= 0)
    np.testing.assert_array_equal(found.runner_up_class[known], wanted.runner_up_class[known])


def test_a_segment_of_a_dropped_class_goes_to_its_runner_up_or_to_none() -> None:
    stored = classify_scores(scores((0, 0.9, 0.8, 0.1), (0, 0.9, 0.1, 0.3), (0, 0.7, 0.6, 0)), [1, 2, 3], 0.5)
    found = merge_classes(stored, np.array([0, -1, 1, -1]), 0.5)
    assert found.class_id.tolist() == [1, 0, 1]
    np.testing.assert_allclose(found.score, [0.8, 0, 0.6], atol=1e-6)
    assert found.runner_up_class.tolist() == [-1, -1, -1]


def test_a_segment_without_a_class_stays_without() -> None:
    stored = classify_scores(scores((0, 0.4, 0.3)), [1, 2], 0.5)
    found = merge_classes(stored, np.array([0, -1, 1]), 0.5)
    assert (found.class_id.tolist(), found.has_class.tolist()) == ([0], [False])
