"""What to change, by leave-one-image-out mIoU: nothing that is clearly worse on images held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segray.models.calibration.centres import LEAST_SEGMENTS, Centres, class_centres
from segray.models.calibration.heads import (
    TEXT,
    Array,
    Evidence,
    Head,
    candidates,
    groups_of,
    normalised,
    out_of_group,
    softmax,
    temperature,
)
from segray.models.calibration.regions import MaskedImage, Regions, join_regions
from segray.models.metrics import mean_iou

LEAST_GAIN = 0.01
"""mIoU that a learned change has to gain on images held out, besides half of its standard error."""
STABILITY_SHARES = (0.1, 0.05, 0.2)
"""Shares of all segments, the least stable ones, that may be left out; the first one is usual."""
THRESHOLD_SHARES = (0.02, 0.05, 0.1)
"""Shares of the labelled segments, those of the lowest best cosine, that may get no class."""
MAX_GROUPS = 32
"""More images than this are held out in so many groups."""
MAX_DRAWN = 8
"""The same for class centres, which take longer."""

CLEARLY = 2.0
"""Standard errors from which a difference of two rules counts."""
CENTRES_LOSE = 3.0
"""Standard errors from which a loss by class centres counts; those of a handful of masks are rough."""
NO_THRESHOLD = -1.0

_SHARPNESS = 0.05
_LEAST_WEIGHT = 0.01


@dataclass(frozen=True)
class Labelled:
    """The segments of the images with masks.

    Attributes:
        evidence: of the n segments.
        classes: int64 [n], the class of most of the segment's true pixels.
        stability: [n], SAM's stability score.
        stability_anywhere: [m], the same of segments of any image.
        image: int64 [n], the image of each segment.
        regions: of the images.
        n_images: images, numbered from 0.
    """

    evidence: Evidence
    classes: NDArray[np.int64]
    stability: Array
    stability_anywhere: Array
    image: NDArray[np.int64]
    regions: Regions
    n_images: int

    @property
    def group(self) -> NDArray[np.int64]:
        """[n], what is held out together: an image, or one of `MAX_GROUPS` groups."""
        return self.image % MAX_GROUPS

    def shown(self, rule: Rule) -> NDArray[np.bool_]:
        """bool [n]: the segments that a rule draws."""
        return rule.shown(named_scores(self.evidence).max(1), self.stability)

    def score(self, share: Array, shown: NDArray[np.bool_]) -> Outcome:
        """The score of a naming, by the greatest of its shares or scores [n, C]."""
        confusions = self.regions.confusions(share.argmax(1), shown, self.n_images)
        return Outcome(confusions[:, :, :-1])


def gather(images: Sequence[MaskedImage], stability_anywhere: Array | None = None) -> Labelled:
    """The segments of at least one image, without text scores: `prompts.with_prompts` adds them.

    A segment that lies on ignored pixels alone says nothing and is left out.

    Args:
        images: with masks.
        stability_anywhere: [m], stability scores of segments of any image; None or empty: of these images.
    """
    pixels = np.concatenate([image.pixels for image in images])
    labelled = pixels.any(1)
    number = np.append(np.where(labelled, np.cumsum(labelled) - 1, -1), -1)
    regions = join_regions(images)
    embeddings = normalised(np.concatenate([image.embeddings for image in images]).astype(float)[labelled])
    n_classes = pixels.shape[1]
    nothing = Evidence(embeddings, np.zeros((len(embeddings), n_classes)), np.zeros(n_classes, bool))
    stability = np.concatenate([image.stability for image in images])[labelled]
    return Labelled(
        nothing,
        pixels[labelled].argmax(1),
        stability,
        stability if stability_anywhere is None or not stability_anywhere.size else stability_anywhere,
        np.repeat(np.arange(len(images)), [len(image.pixels) for image in images])[labelled],
        replace(regions, stacks=number[regions.stacks]),
        len(images),
    )


@dataclass(frozen=True)
class Outcome:
    """How a labelling does on the labelled images.

    Attributes:
        confusions: int64 [images, C, C], rows truth, columns labels.
    """

    confusions: NDArray[np.int64]

    @property
    def miou(self) -> float:
        """In [0, 1]; nan without a counted pixel."""
        return mean_iou(self.confusions.sum(0))

    def gain_over(self, other: Outcome) -> tuple[float, float]:
        """The difference of the mIoU and its standard error, by the jackknife over images."""
        without = [
            mean_iou(self._without(i)) - mean_iou(other._without(i)) for i in range(len(self.confusions))
        ]
        spread = np.array(without) - np.mean(without)
        n = len(without)
        return self.miou - other.miou, float(np.sqrt((n - 1) / n * (spread**2).sum()))

    def pays_over(self, other: Outcome, errors: float = 0.5, least: float = LEAST_GAIN) -> bool:
        """Whether it is better by `least` and by so many standard errors."""
        gain, error = self.gain_over(other)
        return bool(gain > max(least, errors * error))

    def _without(self, image: int) -> NDArray[np.int64]:
        total: NDArray[np.int64] = self.confusions.sum(0) - self.confusions[image]
        return total


@dataclass(frozen=True)
class Rule:
    """Which segments are drawn.

    Attributes:
        threshold: the best cosine must be above it (Eq. 2).
        least_stability: SAM's stability score must not be below it.
    """

    threshold: float
    least_stability: float = 0.0

    def shown(self, best: Array, stability: Array) -> NDArray[np.bool_]:
        """bool [n], of the best cosines and the stability scores."""
        return (best > self.threshold) & (stability >= self.least_stability)


_UNHIDDEN = Rule(NO_THRESHOLD)


def choose_rule(labelled: Labelled, threshold: float) -> tuple[Rule, Outcome]:
    """The rule for the text scores with the best mIoU on the labelled images, and how it does.

    No threshold and the stored one, each with the least stable segments left out, or none: with a handful of
    masks their mIoU says little, so the first of them in this order is taken that is not clearly worse.
    Another threshold has to pay clearly.
    """
    scores = named_scores(labelled.evidence)
    rule, result = _preferred(labelled, scores, threshold)
    for share in THRESHOLD_SHARES:
        higher = Rule(float(np.quantile(scores.max(1), share)), rule.least_stability)
        if (outcome := labelled.score(scores, labelled.shown(higher))).pays_over(result, errors=CLEARLY):
            rule, result = higher, outcome
    return rule, result


def stability_floors(labelled: Labelled) -> list[float]:
    """Stability scores below which segments may be left out, the usual one first.

    Shares of the labelled segments alone would be a matter of luck: eight images have some 70 of them.
    """
    return [float(np.quantile(labelled.stability_anywhere, share)) for share in STABILITY_SHARES]


def _preferred(labelled: Labelled, scores: Array, threshold: float) -> tuple[Rule, Outcome]:
    """The first rule that is not worse than the stored one, nor than the best by two standard errors."""
    floors = [*stability_floors(labelled), 0.0]
    rules = [Rule(t, floor) for t in (NO_THRESHOLD, threshold) for floor in floors]
    outcomes = [labelled.score(scores, labelled.shown(rule)) for rule in rules]
    stored, best = outcomes[-1], max(outcomes, key=lambda outcome: outcome.miou)
    for rule, outcome in zip(rules, outcomes, strict=True):
        gain, error = best.gain_over(outcome)
        if outcome.miou >= stored.miou and gain <= CLEARLY * error:
            return rule, outcome
    return rules[-1], stored


def _best_rule(labelled: Labelled, scores: Array, rules: Sequence[Rule]) -> tuple[Rule, Outcome]:
    outcomes = [labelled.score(scores, labelled.shown(rule)) for rule in rules]
    best = max(range(len(rules)), key=lambda i: outcomes[i].miou)
    return rules[best], outcomes[best]


def named_scores(evidence: Evidence) -> Array:
    """Text scores [n, C] in which no class without names can win."""
    return np.where(evidence.named, evidence.text, -np.inf)


@dataclass(frozen=True)
class SegmentClassifier:
    """How segments get their class: shares of the classes, averaged over heads.

    Attributes:
        names: of the heads, M of them.
        weights: [M], their weights, which add up to 1.
        heads: scores are logits.
        centres: to which the shares are drawn; None: none.
        factor: on the logits by centres, so that shares say how often they are right on images held out.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    heads: tuple[Head, ...]
    centres: Centres | None = None
    factor: float = 1.0

    def shares(self, evidence: Evidence) -> Array:
        """Calibrated shares of the classes, [n, C]."""
        if self.centres is None:
            return self._averaged(evidence)
        return softmax(self.factor * self.drawn_scores(evidence))

    def drawn_scores(self, evidence: Evidence) -> Array:
        """The logits by centres, [n, C], before the factor."""
        assert self.centres is not None
        return self.centres.scores(self._averaged(evidence), evidence.embeddings)

    def drawn_to(
        self, everything: Evidence, labelled: Evidence, classes: NDArray[np.int64]
    ) -> SegmentClassifier:
        """The same, drawn to the centres of a whole label set, of which some segments are labelled."""
        prior = self.shares(everything)
        return replace(
            self, centres=class_centres(prior, everything.embeddings, labelled.embeddings, classes)
        )

    def _averaged(self, evidence: Evidence) -> Array:
        parts = [
            weight * softmax(head.scores(evidence))
            for weight, head in zip(self.weights, self.heads, strict=True)
        ]
        averaged: Array = np.sum(parts, axis=0)
        return averaged


@dataclass(frozen=True)
class Choice:
    """A classifier and its rule, and how they do on images that they have not seen.

    Attributes:
        naming: the one to use.
        rule: the one to use.
        held_out: [n, C], shares of the labelled segments, each by heads fitted without its image.
        outcome: of these.
        alone: of these, without class centres.
        tried: mIoU of each candidate on images held out, with every segment drawn.
        averaged: mIoU of their average on images held out.
    """

    naming: SegmentClassifier
    rule: Rule
    held_out: Array
    outcome: Outcome
    alone: Outcome
    tried: dict[str, float]
    averaged: float


@dataclass(frozen=True)
class Judged:
    """How candidates do on images held out, by their names.

    Attributes:
        factor: on each one's scores, which makes them logits.
        share: [n, C], its shares of the classes, each segment by a head fitted without its image.
        miou: of these, with every segment drawn.
    """

    factor: dict[str, float]
    share: dict[str, Array]
    miou: dict[str, float]

    def weights(self) -> dict[str, float]:
        """See `average_weights`."""
        return dict(zip(self.miou, average_weights(list(self.miou.values())), strict=True))

    def averaged(self) -> Array:
        """[n, C]: the mean of the shares by these weights."""
        averaged: Array = np.sum([w * self.share[name] for name, w in self.weights().items()], axis=0)
        return averaged


def judge(labelled: Labelled, raw: Mapping[str, Array]) -> Judged:
    """Judge candidates by their scores on images held out.

    Args:
        labelled: segments of the images with masks.
        raw: of each candidate the scores [n, C], each segment's by a head fitted without its image.
    """
    classes = labelled.classes
    factor = {name: temperature(scores, classes) for name, scores in raw.items()}
    share = {name: softmax(factor[name] * scores) for name, scores in raw.items()}
    shown = labelled.shown(_UNHIDDEN)
    return Judged(factor, share, {name: labelled.score(of, shown).miou for name, of in share.items()})


def choose(labelled: Labelled, threshold: float, everything: Evidence | None = None) -> Choice:
    """The text alone, or the average of all candidates where that pays on images held out, drawn to centres.

    The average weighs each candidate by exp(mIoU / 0.05) on images held out. With a handful of masks the best
    candidate is mostly the luckiest; the average loses less where it errs and wins more where it is right.
    The threshold is one of text scores, so the average has none.

    Class centres of the whole label set (see `class_centres`) know more segments than a handful of masks can
    judge, and holding out the one image that shows a class says nothing of that class. So they are used
    unless they are clearly worse there.

    Args:
        labelled: segments of the images with masks.
        threshold: the one that the label set has.
        everything: segments of any image; None, or fewer than `LEAST_SEGMENTS`: no centres. Nor are there any
            where a single image has labelled segments, as no other could judge them.
    """
    evidence, classes, group = labelled.evidence, labelled.classes, labelled.group
    rule, text_outcome = choose_rule(labelled, threshold)
    fits = candidates(evidence, classes, group)
    if len(np.unique(group)) == 1:
        # Nothing is left to learn from when the only image is held out.
        fits = {TEXT: fits[TEXT]}
    raw = {name: out_of_group(fit, evidence, classes, group) for name, fit in fits.items()}
    judged_fits = judge(labelled, raw)
    factor, share, tried = judged_fits.factor, judged_fits.share, judged_fits.miou
    averaged = judged_fits.averaged()
    rules = [Rule(NO_THRESHOLD, floor) for floor in (0.0, *stability_floors(labelled))]
    average_rule, average_outcome = _best_rule(labelled, averaged, rules)
    used = {name: weight for name, weight in judged_fits.weights().items() if weight}
    held_out, outcome = averaged, average_outcome
    if average_outcome.pays_over(text_outcome):
        rule = average_rule
    else:
        used, held_out, outcome = {TEXT: 1.0}, share[TEXT], text_outcome

    def fitted(rows: NDArray[np.bool_]) -> SegmentClassifier:
        heads = tuple(fits[name](evidence[rows], classes[rows]).scaled(factor[name]) for name in used)
        return SegmentClassifier(tuple(used), tuple(used.values()), heads)

    naming = fitted(np.ones(len(classes), bool))
    chosen = Choice(naming, rule, held_out, outcome, outcome, tried, average_outcome.miou)
    judged = len(np.unique(labelled.image % MAX_DRAWN)) > 1
    if not judged or everything is None or len(everything.text) < LEAST_SEGMENTS:
        return chosen
    drawn = _drawn(labelled, chosen, everything, fitted, rules)
    loss, error = outcome.gain_over(drawn.outcome)
    return drawn if loss <= CENTRES_LOSE * error else chosen


def _drawn(
    labelled: Labelled,
    choice: Choice,
    everything: Evidence,
    fitted: Callable[[NDArray[np.bool_]], SegmentClassifier],
    rules: Sequence[Rule],
) -> Choice:
    """The same choice with class centres; `fitted` makes its classifier of some of the labelled segments."""
    evidence, classes = labelled.evidence, labelled.classes
    scores = np.zeros_like(choice.held_out)
    for rows in groups_of(labelled.image % MAX_DRAWN):
        others = fitted(~rows).drawn_to(everything, evidence[~rows], classes[~rows])
        scores[rows] = others.drawn_scores(evidence[rows])
    factor = temperature(scores, classes)
    held_out = softmax(factor * scores)
    rule, outcome = _best_rule(labelled, held_out, rules)
    naming = replace(choice.naming.drawn_to(everything, evidence, classes), factor=factor)
    return replace(choice, naming=naming, rule=rule, held_out=held_out, outcome=outcome)


def average_weights(miou: Sequence[float]) -> tuple[float, ...]:
    """Weights of candidates by their mIoU, which add up to 1; those below 1 % are 0."""
    weight = np.exp((np.array(miou) - max(miou)) / _SHARPNESS)
    weight[weight < _LEAST_WEIGHT * weight.sum()] = 0
    return tuple(float(w) for w in weight / weight.sum())
