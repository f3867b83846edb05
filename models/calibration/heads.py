"""Few-shot names from text scores and embeddings: prototypes, ridge regression, one bias per class.

Every candidate is affine in a segment's text scores and its embedding, so that one type holds them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PROTOTYPE_WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 100.0)
"""Weights of the prototypes beside the text, whose weight is 1."""
RIDGE_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
BIAS_STRENGTHS = (3.0, 10.0)

TEXT = "text"
"""The candidate that names by text alone."""

_NEVER = -1e6
_NEWTON_STEPS = 50
_FLOOR = -20.0


@dataclass(frozen=True)
class Evidence:
    """Segments as the candidates see them.

    Attributes:
        embeddings: [n, D], L2-normalised.
        text: [n, C], each class's cosine, the best one of its names; of no meaning for a class without names.
        named: bool [C], the class has names.
    """

    embeddings: Array
    text: Array
    named: NDArray[np.bool_]

    def __getitem__(self, rows: NDArray[np.bool_]) -> Evidence:
        return Evidence(self.embeddings[rows], self.text[rows], self.named)


@dataclass(frozen=True)
class Head:
    """Scores [n, C] = scale * text + embeddings @ weights + bias.

    Attributes:
        scale: [C].
        weights: [D, C].
        bias: [C].
    """

    scale: Array
    weights: Array
    bias: Array

    def scores(self, evidence: Evidence) -> Array:
        """[n, C]; the greatest one names the segment."""
        return self.scale * evidence.text + evidence.embeddings @ self.weights + self.bias

    def names(self, classes: NDArray[np.bool_]) -> bool:
        """Whether it can give each of some classes, bool [C]."""
        return bool((self.bias[classes] > _NEVER / 2).all())

    def scaled(self, factor: float) -> Head:
        """The head whose scores are `factor` times as large."""
        return Head(factor * self.scale, factor * self.weights, factor * self.bias)


Fit = Callable[[Evidence, NDArray[np.int64]], Head]
"""Learns from segments and their true classes [n]."""


def candidates(labelled: Evidence, classes: NDArray[np.int64], group: NDArray[np.int64]) -> dict[str, Fit]:
    """Every way of naming, by its name; the first one is the text alone.

    Args:
        labelled: all labelled segments.
        classes: [n], their true classes.
        group: [n], the group (image) of each, which its own prototypes would flatter.
    """
    centres = score_centres(labelled, classes, group)
    fits: dict[str, Fit] = {TEXT: lambda evidence, _: text_head(evidence)}
    for weight in PROTOTYPE_WEIGHTS:
        fits[f"prototypes x {weight:g}"] = _prototypes_with(weight, centres)
    for strength in RIDGE_STRENGTHS:
        fits[f"ridge {strength:g}"] = _ridge_with(strength)
    for strength in BIAS_STRENGTHS:
        fits[f"bias {strength:g}"] = _bias_with(strength)
    return fits


def _prototypes_with(weight: float, centres: tuple[float, float, float, float]) -> Fit:
    return lambda evidence, classes: prototype_head(evidence, classes, weight, centres)


def _ridge_with(strength: float) -> Fit:
    return lambda evidence, classes: ridge_head(evidence, classes, strength)


def _bias_with(strength: float) -> Fit:
    return lambda evidence, classes: bias_head(evidence, classes, strength)


def text_head(evidence: Evidence) -> Head:
    """The text scores as they are."""
    n_classes, dim = len(evidence.named), evidence.embeddings.shape[1]
    never = np.where(evidence.named, 0.0, _NEVER)
    return Head(evidence.named.astype(float), np.zeros((dim, n_classes)), never)


def prototypes(embeddings: Array, classes: NDArray[np.int64], n_classes: int) -> Array:
    """[C, D]: the normalised mean of each class's embeddings; zeros for a class without any."""
    sums = np.zeros((n_classes, embeddings.shape[1]))
    np.add.at(sums, classes, embeddings)
    return normalised(sums)


def normalised(vectors: Array) -> Array:
    """[n, D] vectors of length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def score_centres(
    evidence: Evidence, classes: NDArray[np.int64], group: NDArray[np.int64]
) -> tuple[float, float, float, float]:
    """Mean and deviation of the text scores, then of the prototype cosines, over all segments and classes.

    A segment's prototypes come from the other groups.
    """
    cosines: list[Array] = []
    for g in np.unique(group):
        others = group != g
        centres = prototypes(evidence.embeddings[others], classes[others], len(evidence.named))
        known = centres.any(1)
        cosines.append((evidence.embeddings[~others] @ centres[known].T).ravel())
    text, cosine = evidence.text[:, evidence.named], np.concatenate(cosines)
    if not cosine.size:
        cosine = np.array([0.0, 1.0])
    return float(text.mean()), _deviation(text), float(cosine.mean()), _deviation(cosine)


def prototype_head(
    evidence: Evidence,
    classes: NDArray[np.int64],
    weight: float,
    centres: tuple[float, float, float, float],
) -> Head:
    """Text and prototype cosines, each z-scored, averaged with the weights 1 and `weight`.

    A class without a labelled segment keeps its z-scored text score, one without names its prototype's.
    """
    text_mean, text_sd, mean, sd = centres
    prototype = prototypes(evidence.embeddings, classes, len(evidence.named))
    known = prototype.any(1)
    share = np.where(known, np.where(evidence.named, weight / (1 + weight), 1.0), 0.0)
    text = np.where(evidence.named, 1 - share, 0.0)
    bias = -text * text_mean / text_sd - share * mean / sd
    return Head(
        text / text_sd, prototype.T * (share / sd), np.where(known | evidence.named, bias, bias + _NEVER)
    )


def ridge_head(evidence: Evidence, classes: NDArray[np.int64], strength: float) -> Head:
    """Ridge regression of the one-hot classes, shrunk to the text classifier instead of to 0.

    The text scores, brought to the scale of the targets by least squares, are the prior; the regression
    explains what they leave: W = (E^T E + strength I)^-1 E^T (Y - prior). A class without a labelled segment
    keeps its prior.
    """
    n_classes, dim = len(evidence.named), evidence.embeddings.shape[1]
    target = np.eye(n_classes)[classes]
    slope, offset = _line(evidence.text[:, evidence.named], target[:, evidence.named])
    prior = np.where(evidence.named, slope * evidence.text + offset, 0.0)
    known = target.any(0)
    gram = evidence.embeddings.T @ evidence.embeddings + strength * np.eye(dim)
    weights = np.linalg.solve(gram, evidence.embeddings.T @ ((target - prior) * known)).astype(np.float64)
    bias = np.where(evidence.named, offset, np.where(known, 0.0, _NEVER))
    return Head(np.where(evidence.named, slope, 0.0), weights, bias)


def bias_head(evidence: Evidence, classes: NDArray[np.int64], strength: float) -> Head:
    """Text scores with one additive bias per class, by maximum likelihood with the penalty strength/2 |b|^2.

    A class without a labelled segment has bias 0.
    """
    text = text_head(evidence)
    factor = temperature(text.scores(evidence), classes)
    logits = factor * text.scores(evidence)
    target = np.eye(logits.shape[1])[classes]
    known = target.any(0)
    bias = np.zeros(logits.shape[1])
    for _ in range(_NEWTON_STEPS):
        share = softmax(logits + bias)
        slope = (share - target).sum(0) + strength * bias
        # Half of a Newton step with the diagonal alone, which never overshoots here.
        bias -= known * 0.5 * slope / ((share * (1 - share)).sum(0) + strength)
    return Head(text.scale, text.weights, text.bias + bias / factor)


def temperature(scores: Array, classes: NDArray[np.int64]) -> float:
    """The factor on scores [n, C] with the greatest likelihood of the true classes, of a grid."""
    usual = scores[scores > _NEVER / 2]
    grid = np.geomspace(0.3, 30, 24) / _deviation(usual)
    return float(min(grid, key=lambda factor: _loss(factor * scores, classes)))


def _loss(logits: Array, classes: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_share = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -float(np.maximum(log_share[np.arange(len(classes)), classes], _FLOOR).mean())


def softmax(logits: Array) -> Array:
    """Shares of the classes, [n, C]."""
    share = np.exp(logits - logits.max(1, keepdims=True))
    return share / share.sum(1, keepdims=True)


def out_of_group(fit: Fit, evidence: Evidence, classes: NDArray[np.int64], group: NDArray[np.int64]) -> Array:
    """Scores [n, C] of each segment by a head that was fitted on the other groups."""
    scores = np.zeros_like(evidence.text)
    for held_out in groups_of(group):
        scores[held_out] = fit(evidence[~held_out], classes[~held_out]).scores(evidence[held_out])
    return scores


def groups_of(group: NDArray[np.int64]) -> Iterator[NDArray[np.bool_]]:
    """bool [n] for each group: its members."""
    for g in np.unique(group):
        yield group == g


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Slope, at least 0, and offset of the least-squares line."""
    slope = max(0.0, float(((x - x.mean()) * (y - y.mean())).mean() / max(x.var(), 1e-12)))
    return slope, float(y.mean() - slope * x.mean())


def _deviation(values: Array) -> float:
    return max(float(values.std()), 1e-6) if values.size else 1.0
