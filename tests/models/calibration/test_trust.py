"""Conformal quantiles and the transition matrix against cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from segray.models.calibration.trust import conformal_quantiles, transition_matrix


def test_the_quantile_of_a_class_is_that_of_its_nonconformities() -> None:
    # Nonconformities of class 0: .1 .2 .3 .4; rank ceil(5 * .75) = 4 of 4. Of class 1: .5 .6 .9; 3 of 3.
    share = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.5, 0.5], [0.6, 0.4], [0.9, 0.1]])
    classes = np.array([0, 0, 0, 0, 1, 1, 1])
    quantiles = conformal_quantiles(share, classes, 0.25, pooled_below=1)
    assert quantiles == pytest.approx([0.4, 0.9])
    # Rank ceil(5 * .5) = 3 of class 0, ceil(4 * .5) = 2 of class 1.
    assert conformal_quantiles(share, classes, 0.5, pooled_below=1) == pytest.approx([0.3, 0.6])


def test_a_class_with_few_segments_uses_all_of_them() -> None:
    share = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.5, 0.5]])
    classes = np.array([0, 0, 0, 0, 1])
    # All: .1 .2 .3 .4 .5, rank ceil(6 * .5) = 3.
    assert conformal_quantiles(share, classes, 0.5, pooled_below=2) == pytest.approx([0.3, 0.3])


def test_a_level_that_cannot_be_reached_trusts_every_label() -> None:
    share = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert conformal_quantiles(share, np.array([0, 1]), 0.05, pooled_below=1).tolist() == [1.0, 1.0]


def test_the_transition_matrix_is_shrunk_to_the_prior() -> None:
    # Rows truth: 6 pixels of class 0 labelled 0, 2 labelled 1; 0 of class 1 labelled 0, 2 labelled 1.
    confusion = np.array([[6, 2], [0, 2]])
    # Prior .8, .2; a = 2: T[0] = (6 + 1.6, 0 + .4) / 8, T[1] = (2 + 1.6, 2 + .4) / 6.
    expected = [[0.95, 0.05], [0.6, 0.4]]
    assert transition_matrix(confusion, 2) == pytest.approx(np.array(expected))


def test_a_label_that_never_occurs_stands_for_the_prior() -> None:
    matrix = transition_matrix(np.array([[3, 0], [1, 0]]), 10)
    assert matrix[1] == pytest.approx([0.75, 0.25])
    assert matrix.sum(1) == pytest.approx([1, 1])
