"""Class centres on which the segments of a whole label set agree, labelled or not: transduction.

A naming by text or by a few masks is right more often than not, and segments of a class look alike. So each
class gets a centre, the mean of the segments weighed by their shares of it, where a labelled segment counts
`_TAUGHT` times; and a segment's shares become the naming's times exp(sharpness x cosine with the centre):
expectation and maximisation in turn, for a mixture of von Mises-Fisher distributions whose prior is the
naming. After Zanella et al., "Boosting Vision-Language Models with Transduction" (NeurIPS 2024), without
their graph of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.models.calibration.heads import Array, normalised, softmax

LEAST_SEGMENTS = 100
"""Fewer segments than this teach no centres."""

_SHARPNESS = 10.0
_ROUNDS = 10
_TAUGHT = 5.0
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class Centres:
    """What the segments of a label set have in common.

    Attributes:
        mean: [D], of their embeddings.
        of_class: [C, D], the direction of each class from it, of length 1.
        possible: bool [C], classes that the naming gives; others have neither a name nor a labelled segment.
    """

    mean: Array
    of_class: Array
    possible: NDArray[np.bool_]

    def shares(self, prior: Array, embeddings: Array) -> Array:
        """Shares of the classes [n, C], of those of a naming [n, C] and embeddings [n, D]."""
        cosines = normalised(embeddings - self.mean) @ self.of_class.T
        return softmax(_log(prior, self.possible) + _SHARPNESS * cosines)


def class_centres(prior: Array, embeddings: Array, labelled: Array, classes: NDArray[np.int64]) -> Centres:
    """The centres of segments of a label set.

    Args:
        prior: [n, C], their shares of the classes; n at least 1.
        embeddings: [n, D], normalised.
        labelled: [m, D], embeddings of labelled segments.
        classes: [m], their classes.
    """
    mean = embeddings.mean(0)
    directions = normalised(embeddings - mean)
    taught = _TAUGHT * np.eye(prior.shape[1])[classes].T @ normalised(labelled - mean)
    possible = prior.max(0) > 0
    log_prior, shares = _log(prior, possible), prior
    for _ in range(_ROUNDS):
        of_class = normalised(shares.T @ directions + taught)
        shares = softmax(log_prior + _SHARPNESS * (directions @ of_class.T))
    return Centres(mean, of_class, possible)


def _log(prior: Array, possible: NDArray[np.bool_]) -> Array:
    return np.where(possible, np.log(np.maximum(prior, _LEAST_SHARE)), -np.inf)
