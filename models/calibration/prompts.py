"""Which names and templates to prompt with, by leave-one-image-out mIoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segray.models.calibration.heads import Array, Evidence
from segray.models.calibration.selection import LEAST_GAIN, Labelled, Outcome, named_scores
from segray.models.metrics import mean_iou

_FOLDS = 8
_STEPS = 6


@dataclass(frozen=True)
class Names:
    """The names that may stand for the classes, as a set of templates embeds them.

    Attributes:
        class_ids: int64 [N], the class of each name.
        embeddings: [N, D], L2-normalised, by the name of each set of templates.
    """

    class_ids: NDArray[np.int64]
    embeddings: Mapping[str, Array]


@dataclass(frozen=True)
class Prompts:
    """A choice of names and templates.

    Attributes:
        templates: the name of the set of templates.
        used: bool [N], of `Names`.
    """

    templates: str
    used: NDArray[np.bool_]


def text_scores(
    cosines: Array, class_ids: NDArray[np.int64], used: NDArray[np.bool_], n_classes: int
) -> Array:
    """[n, C]: each class's best cosine over its used names; 0 for a class without any.

    Args:
        cosines: [n, N], of segments with names.
        class_ids: [N].
        used: bool [N].
        n_classes: C.
    """
    scores = np.zeros((len(cosines), n_classes))
    for c in np.unique(class_ids[used]):
        scores[:, c] = cosines[:, used & (class_ids == c)].max(1)
    return scores


def with_prompts(labelled: Labelled, names: Names, prompts: Prompts) -> Labelled:
    """The labelled segments with the text scores of some prompts."""
    evidence = labelled.evidence
    return replace(labelled, evidence=evidence_of(evidence.embeddings, names, prompts, len(evidence.named)))


def evidence_of(embeddings: Array, names: Names, prompts: Prompts, n_classes: int) -> Evidence:
    """Segments by their normalised embeddings [n, D], with the text scores of some prompts."""
    cosines = embeddings @ names.embeddings[prompts.templates].T
    named = np.isin(np.arange(n_classes), names.class_ids[prompts.used])
    return Evidence(embeddings, text_scores(cosines, names.class_ids, prompts.used, n_classes), named)


def choose_prompts(labelled: Labelled, names: Names, stored: Prompts) -> Prompts:
    """The stored prompts, or others that pay on images held out.

    First the templates; then names are dropped or added one by one, at most `_STEPS` of them, each the one
    with the greatest gain. Whether that is done at all is decided on images held out from doing it.
    """

    def outcome(prompts: Prompts) -> Outcome:
        return _outcome(with_prompts(labelled, names, prompts))

    chosen = stored
    for templates in names.embeddings:
        other = replace(stored, templates=templates)
        if outcome(other).pays_over(outcome(chosen)):
            chosen = other
    if len(names.class_ids) > len(np.unique(names.class_ids)):
        fold = np.arange(labelled.n_images) % _FOLDS
        held_out = np.zeros_like(outcome(chosen).confusions)
        for k in np.unique(fold):
            held_out[fold == k] = outcome(_refined(labelled, names, chosen, fold != k)).confusions[fold == k]
        if Outcome(held_out).pays_over(outcome(chosen)):
            return _refined(labelled, names, chosen, fold >= 0)
    return chosen


def _outcome(labelled: Labelled) -> Outcome:
    scores = named_scores(labelled.evidence)
    return labelled.score(scores, np.ones(len(scores), bool))


def _refined(labelled: Labelled, names: Names, prompts: Prompts, images: NDArray[np.bool_]) -> Prompts:
    """Names dropped or added greedily for some images, bool [images]."""

    def miou(candidate: Prompts) -> float:
        outcome = _outcome(with_prompts(labelled, names, candidate))
        return mean_iou(outcome.confusions[images].sum(0))

    best = miou(prompts)
    for _ in range(_STEPS):
        tried = [(miou(p), p) for p in _neighbours(names, prompts)]
        score, candidate = max(tried, key=lambda pair: pair[0], default=(0.0, prompts))
        if score <= best + LEAST_GAIN:
            break
        best, prompts = score, candidate
    return prompts


def _neighbours(names: Names, prompts: Prompts) -> Sequence[Prompts]:
    """The prompts with one name more or less; a class keeps its last name."""
    flipped = [prompts.used ^ (np.arange(len(prompts.used)) == i) for i in range(len(prompts.used))]
    covered = set(names.class_ids[prompts.used].tolist())
    return [replace(prompts, used=used) for used in flipped if covered <= set(names.class_ids[used].tolist())]
