"""Candidates of few-shot names against cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from segray.models.calibration.heads import (
    Evidence,
    bias_head,
    candidates,
    out_of_group,
    prototype_head,
    prototypes,
    ridge_head,
    score_centres,
    softmax,
    temperature,
    text_head,
)

AXES = np.eye(3)
ALL = np.ones(3, bool)


def _evidence(
    embeddings: list[list[float]], text: list[list[float]], named: list[bool] | None = None
) -> Evidence:
    return Evidence(np.array(embeddings), np.array(text), np.array(named or [True] * len(text[0])))


def test_a_prototype_is_the_normalised_mean() -> None:
    found = prototypes(np.array([[1.0, 0], [0, 1], [0, 1]]), np.array([0, 0, 1]), 3)
    root = 1 / np.sqrt(2)
    assert found == pytest.approx(np.array([[root, root], [0, 1], [0, 0]]))


def test_centres_are_those_of_segments_whose_own_group_is_left_out() -> None:
    evidence = _evidence([[1, 0], [0, 1], [1, 0], [0, 1]], [[0.2, 0.0], [0.0, 0.2], [0.2, 0.0], [0.0, 0.2]])
    text_mean, text_sd, mean, sd = score_centres(evidence, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))
    assert (text_mean, text_sd, mean, sd) == pytest.approx((0.1, 0.1, 0.5, 0.5))


def test_text_and_prototypes_are_z_scored_and_averaged() -> None:
    evidence = _evidence([[1, 0], [0, 1]], [[0.3, 0.1], [0.1, 0.2]])
    head = prototype_head(evidence, np.array([0, 1]), 3.0, (0.2, 0.1, 0.5, 0.5))
    # z of the text: 1 -1 / -1 0; of the prototypes 1 -1 / -1 1; weights 1/4 and 3/4.
    assert head.scores(evidence) == pytest.approx(np.array([[1, -1], [-1, 0.75]]))


def test_without_a_labelled_segment_a_class_keeps_its_text_score() -> None:
    evidence = _evidence([[1, 0], [0, 1]], [[0.3, 0.1, 0.0], [0.1, 0.2, 0.5]])
    centres = (0.2, 0.1, 0.5, 0.5)
    head = prototype_head(evidence, np.array([0, 1]), 3.0, centres)
    assert head.scores(evidence)[:, 2] == pytest.approx([-2, 3])
    ridge = ridge_head(evidence, np.array([0, 1]), 1.0)
    assert ridge.weights[:, 2].tolist() == [0, 0]
    bias = bias_head(evidence, np.array([0, 1]), 1.0)
    assert bias.bias[2] == 0


def test_a_class_without_names_is_named_by_its_prototype_or_not_at_all() -> None:
    evidence = _evidence([[1, 0], [0, 1]], [[0.0, 0.4], [0.0, 0.1]], [False, True])
    assert text_head(evidence).scores(evidence).argmax(1).tolist() == [1, 1]
    head = prototype_head(evidence, np.array([0, 1]), 1.0, (0.2, 0.1, 0.5, 0.5))
    assert head.scores(evidence)[:, 0] == pytest.approx([1, -1])
    other = prototype_head(evidence, np.array([1, 1]), 1.0, (0.2, 0.1, 0.5, 0.5))
    assert other.scores(evidence).argmax(1).tolist() == [1, 1]


def test_ridge_explains_what_the_text_leaves() -> None:
    # Targets are an exact line of the text scores: nothing is left.
    evidence = _evidence([[1, 0], [0, 1]], [[0.4, 0.2], [0.2, 0.4]])
    head = ridge_head(evidence, np.array([0, 1]), 1.0)
    assert head.scale == pytest.approx([5, 5])
    assert head.bias == pytest.approx([-1, -1])
    assert head.weights == pytest.approx(np.zeros((2, 2)))
    # The text says nothing (slope 0, offset 1/2): E^T E = I, so that W = (Y - 1/2) / (1 + strength).
    blind = _evidence([[1, 0], [0, 1]], [[0.3, 0.3], [0.3, 0.3]])
    head = ridge_head(blind, np.array([0, 1]), 1.0)
    assert head.weights == pytest.approx(np.array([[0.25, -0.25], [-0.25, 0.25]]))


def test_a_bias_corrects_a_class_that_wins_too_often() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 50)
    text = np.eye(2)[classes] * 0.1 + rng.normal(0, 0.02, (100, 2))
    text[:, 0] += 0.1
    evidence = Evidence(np.ones((100, 1)), text, np.ones(2, bool))
    before = (text_head(evidence).scores(evidence).argmax(1) == classes).mean()
    after = (bias_head(evidence, classes, 1.0).scores(evidence).argmax(1) == classes).mean()
    assert before < 0.8
    assert after > 0.95


def test_the_temperature_is_large_where_scores_are_right_and_small_where_they_are_not() -> None:
    scores = np.array([[0.3, 0.1], [0.1, 0.3], [0.3, 0.1], [0.1, 0.3]])
    assert temperature(scores, np.array([0, 1, 0, 1])) > 10 * temperature(scores, np.array([0, 1, 1, 0]))
    assert softmax(np.array([[0.0, np.log(3)]])) == pytest.approx(np.array([[0.25, 0.75]]))


def test_held_out_scores_come_from_the_other_groups() -> None:
    evidence = _evidence([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]], [[0.2, 0.1, 0.0]] * 4)
    classes, group = np.array([0, 1, 2, 1]), np.array([0, 0, 1, 1])
    fit = candidates(evidence, classes, group)["prototypes x 100"]
    scores = out_of_group(fit, evidence, classes, group)
    expected = fit(evidence[group == 1], classes[group == 1]).scores(evidence[group == 0])
    assert scores[:2] == pytest.approx(expected)
    # The first group has no class 2, so the third segment, which looks like its class 0, is named 0.
    assert scores[2].argmax() == 0
