"""How far labels can be trusted: conformal quantiles per class, and which class a label stands for."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from segray.models.calibration.heads import Array

POOLED_BELOW = 20
"""Labelled segments of a class below which the quantile of all segments is used."""


def conformal_quantiles(
    share: Array, classes: NDArray[np.int64], alpha: float, pooled_below: int = POOLED_BELOW
) -> Array:
    """[C]: a label z is trusted where 1 - its share is at most the quantile of z.

    The nonconformity of a segment of true class y is a = 1 - share of y; per class its
    ceil((n + 1)(1 - alpha)) / n quantile, 1 where that exceeds 1: class-conditional conformal prediction
    (Vovk, "Conditional validity of inductive conformal predictors", 2012). Segments of an image are not
    exchangeable, so the coverage is approximate.

    Args:
        share: [n, C], calibrated shares of the classes, from heads that have not seen the segment.
        classes: [n], true classes.
        alpha: share of right labels that may be lost; 0 trusts every label.
        pooled_below: classes with fewer segments use all segments.
    """
    nonconformity = 1 - share[np.arange(len(classes)), classes]
    pooled = _quantile(nonconformity, alpha)
    of_class = [nonconformity[classes == c] for c in range(share.shape[1])]
    return np.array([_quantile(a, alpha) if len(a) >= pooled_below else pooled for a in of_class])


def _quantile(values: Array, alpha: float) -> float:
    rank = math.ceil((len(values) + 1) * (1 - alpha))
    return 1.0 if rank > len(values) else float(np.sort(values)[max(rank, 1) - 1])


def class_prior(confusion: NDArray[np.int64]) -> Array:
    """[C]: the share of each true class, of a confusion matrix in pixels, rows truth."""
    return confusion.sum(1) / max(int(confusion.sum()), 1)


def transition_matrix(confusion: NDArray[np.int64], prior_pixels: float) -> Array:
    """[C, C]: the share of true class y among the pixels labelled z, T[z, y] = (n_zy + a pi_y) / (n_z + a).

    Args:
        confusion: [C, C], rows truth, columns labels, in pixels.
        prior_pixels: a, how many pixels the class prior pi counts for; about those of a segment, whose pixels
            are one observation. Above 0.
    """
    labelled = confusion.T.astype(float)
    return (labelled + prior_pixels * class_prior(confusion)) / (
        labelled.sum(1, keepdims=True) + prior_pixels
    )
