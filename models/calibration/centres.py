"""Class centres on which the segments of a whole label set agree, labelled or not: transduction.

A naming by text or by a few masks is right more often than not, and segments of a class look alike. So each
class gets a centre, the mean of the segments weighed by their shares of it, where a labelled segment counts
`_TAUGHT` times, and all classes one covariance; a segment's shares become the naming's times its density
around each centre: expectation and maximisation in turn, for a mixture of Gaussians whose prior is the
naming. In directions in which segments of one class differ from each other, distance then says little; text,
prototypes and cosines cannot know these directions, and a handful of masks is too few to show them.

A class without a labelled segment may be in no image at all, and its centre would take other classes'
segments. So that centre counts at most as much as the nearest one of a labelled class, and the naming decides
between the two classes.

After Zanella et al., "Boosting Vision-Language Models with Transduction" (NeurIPS 2024), without their graph
of neighbours, and with the common covariance of Wang et al., "A Hard-to-Beat Baseline for Training-free
CLIP-based Adaptation" (ICLR 2024), in place of its diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.models.calibration.heads import Array, softmax

LEAST_SEGMENTS = 100
"""Fewer segments than this teach no centres."""

_ROUNDS = 10
_TAUGHT = 5.0
_LEAST_SHARE = 1e-6
_LEAST_WITHIN = 1e-6
"""Share of all variance that a class has at least."""


@dataclass(frozen=True)
class Centres:
    """What the segments of a label set have in common.

    Attributes:
        mean: [D], of their embeddings.
        weights: [C, D], each class's centre from that mean, divided by the covariance.
        bias: [C], minus half of the centre's product with its weights.
        possible: bool [C], classes that the naming gives.
        taught: bool [C], those of them that have a labelled segment.
    """

    mean: Array
    weights: Array
    bias: Array
    possible: NDArray[np.bool_]
    taught: NDArray[np.bool_]

    def scores(self, prior: Array, embeddings: Array) -> Array:
        """Logits [n, C] of the shares of a naming [n, C] and of embeddings [n, D]; -inf: not possible."""
        density = (embeddings - self.mean) @ self.weights.T + self.bias
        return _log(prior, self.possible) + _held_back(density, self.taught)


def class_centres(prior: Array, embeddings: Array, labelled: Array, classes: NDArray[np.int64]) -> Centres:
    """The centres of segments of a label set.

    Args:
        prior: [n, C], their shares of the classes; n at least 1.
        embeddings: [n, D], normalised.
        labelled: [m, D], embeddings of labelled segments.
        classes: [m], their classes.
    """
    mean = embeddings.mean(0)
    free, shown = embeddings - mean, labelled - mean
    counts = _TAUGHT * np.eye(prior.shape[1])[classes]
    scatter = free.T @ free + _TAUGHT * shown.T @ shown
    possible = prior.max(0) > 0
    taught = possible & (counts.sum(0) > 0)
    log_prior, shares = _log(prior, possible), prior
    for _ in range(_ROUNDS):
        mass = shares.sum(0) + counts.sum(0)
        centres = (shares.T @ free + counts.T @ shown) / np.maximum(mass, 1e-12)[:, None]
        weights: Array = np.linalg.solve(_covariance(scatter, mass, centres), centres.T).T
        bias: Array = -0.5 * (weights * centres).sum(1)
        shares = softmax(log_prior + _held_back(free @ weights.T + bias, taught))
    return Centres(mean, weights, bias, possible, taught)


def _held_back(density: Array, taught: NDArray[np.bool_]) -> Array:
    """Log-densities [n, C], those of other classes at most as great as the greatest of a taught one."""
    if not taught.any():
        return density
    return np.where(taught, density, np.minimum(density, density[:, taught].max(1, keepdims=True)))


def _covariance(scatter: Array, mass: Array, centres: Array) -> Array:
    """The covariance [D, D] within the classes, drawn to that of a sphere the more, the fewer segments.

    Args:
        scatter: [D, D], of all segments around their mean.
        mass: [C], the segments of each class.
        centres: [C, D], from that mean.
    """
    within = (scatter - (centres.T * mass) @ centres) / mass.sum()
    dim = len(within)
    share = dim / (mass.sum() + dim)
    # Of equal embeddings rounding alone is left within a class, which no other machine would repeat.
    least = _LEAST_WITHIN * float(np.trace(scatter)) / float(mass.sum())
    sphere = max(float(np.trace(within)), least, 1e-12) / dim
    return (1 - share) * within + share * sphere * np.eye(dim)


def _log(prior: Array, possible: NDArray[np.bool_]) -> Array:
    return np.where(possible, np.log(np.maximum(prior, _LEAST_SHARE)), -np.inf)
