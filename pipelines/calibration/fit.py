"""From masked images to a calibration: prompts, rule, naming, and how far each class is trusted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segray.models.calibration.heads import Array, Evidence, normalised
from segray.models.calibration.prompts import Names, Prompts, choose_prompts, evidence_of, with_prompts
from segray.models.calibration.regions import MaskedImage
from segray.models.calibration.selection import Choice, Labelled, Outcome, Rule, choose, gather, named_scores
from segray.models.calibration.trust import class_prior, conformal_quantiles, transition_matrix
from segray.models.label_map import SegmentClasses
from segray.models.label_space import LabelSpace
from segray.pipelines.calibration.examples import SampledSegments
from segray.pipelines.errors import UserError

if TYPE_CHECKING:  # open_clip takes seconds to import
    from segray.models.clip.model import ClipModel

_MOST_COUNTS = 2**26
"""Counts of a class against a class in an image, which some ten rules hold at once."""


@dataclass(frozen=True)
class Candidates:
    """Everything to prompt with.

    Attributes:
        space: the classes, with all names to try.
        names: these, embedded.
        templates: the templates of each set.
        stored: the prompts of the label set.
        threshold: of the label set.
        logit_scale: CLIP's factor on cosines.
    """

    space: LabelSpace
    names: Names
    templates: Mapping[str, tuple[str, ...]]
    stored: Prompts
    threshold: float
    logit_scale: float


@dataclass(frozen=True)
class Calibration:
    """What the masks chose.

    Attributes:
        candidates: what they chose from.
        prompts: the chosen ones.
        choice: of rule and naming.
        before: how the label set did as it was on the images with masks.
        labelled: their segments.
        quantiles: [C], see `conformal_quantiles`; None trusts every label.
        transition: [C, C], see `transition_matrix`, of labels on images held out.
        prior: [C], see `class_prior`, of the same pixels.
        image_ids: the images with masks.
    """

    candidates: Candidates
    prompts: Prompts
    choice: Choice
    before: Outcome
    labelled: Labelled
    quantiles: Array | None
    transition: Array
    prior: Array
    image_ids: tuple[str, ...]

    def classify(self, pooled: NDArray[np.float16], stability: NDArray[np.float64]) -> SegmentClasses:
        """The classes of stored segments, [K, D] and [K]; scores are calibrated shares of the classes."""
        evidence = self._evidence(pooled)
        shares = self.choice.naming.shares(evidence)
        shown = self.choice.rule.shown(named_scores(evidence).max(1, initial=-1.0), stability)
        order = np.argsort(-shares, axis=1, kind="stable")
        rows = np.arange(len(shares))
        best, score = order[:, 0], shares[rows, order[:, 0]]
        runner_up = order[:, 1]
        return SegmentClasses(
            class_id=np.where(shown, best, 0).astype(np.int16),
            score=score.astype(np.float32),
            margin=(score - shares[rows, runner_up]).astype(np.float32),
            confidence=score.astype(np.float32),
            runner_up_class=runner_up.astype(np.int16),
            has_class=shown,
            unknown=None if self.quantiles is None else 1 - score > self.quantiles[best],
        )

    def used_space(self) -> LabelSpace:
        """The classes with the chosen names."""
        used = iter(self.prompts.used.tolist())
        aliases = tuple(
            tuple(name for name in names if next(used)) for names in self.candidates.space.aliases
        )
        return LabelSpace(self.candidates.space.classes, aliases)

    def digest(self) -> str:
        """SHA-256 of all that decides a label, rounded."""
        choice = self.choice
        values: list[Any] = [choice.rule.threshold, choice.rule.least_stability, *choice.naming.weights]
        for head in choice.naming.heads:
            values += [head.scale, head.weights, head.bias]
        if choice.naming.centres is not None:
            centres = choice.naming.centres
            values += [centres.mean, centres.weights, centres.bias, centres.possible, centres.taught]
            values += [choice.naming.factor]
        values += [] if self.quantiles is None else [self.quantiles]
        digest = hashlib.sha256()
        for value in values:
            digest.update(np.asarray(value, np.float32).tobytes())
        return digest.hexdigest()

    def _evidence(self, pooled: NDArray[np.floating[Any]]) -> Evidence:
        n_classes = len(self.candidates.space.classes)
        return evidence_of(normalised(pooled.astype(float)), self.candidates.names, self.prompts, n_classes)


def check_size(n_images: int, n_classes: int) -> None:
    """Refuse more than memory holds: each rule that is tried counts each class against each, in each image.

    Raises:
        UserError: so many images with masks, and classes of the label set.
    """
    if n_images * n_classes**2 > _MOST_COUNTS:
        allowed = int((_MOST_COUNTS / n_images) ** 0.5)
        raise UserError(
            f"masks: {n_images} images of a label set with {n_classes} classes are too many to calibrate on; "
            f"allowed with so many images: {allowed} classes (`segray relabel` makes fewer; split=FILE, or "
            "data.labelled of a run, takes fewer images)"
        )


def fit(
    images: Mapping[str, MaskedImage],
    candidates: Candidates,
    alpha: float,
    sample: SampledSegments,
) -> Calibration:
    """Choose by the masks of some images.

    Args:
        images: by image_id.
        candidates: what to choose from.
        alpha: see `conformal_quantiles`; 0 trusts every label.
        sample: of the whole label set, for class centres and the usual stability.

    Raises:
        UserError: the masks hold fewer than two classes, or their images no segment.
    """
    pixels = np.sum([image.truth.sum(0) for image in images.values()], axis=0)
    check_classes(pixels, len(images), candidates.space.classes)
    if not any(image.pixels.any() for image in images.values()):
        raise UserError(f"masks: the label set has no segment in their {len(images)} images")
    plain = gather(list(images.values()), sample.stability)
    stored = with_prompts(plain, candidates.names, candidates.stored)
    before = stored.score(named_scores(stored.evidence), stored.shown(Rule(candidates.threshold)))
    every = normalised(sample.embeddings.astype(float))

    def chosen(labelled: Labelled, prompts: Prompts) -> Choice:
        names, n_classes = candidates.names, len(candidates.space.classes)
        return choose(labelled, candidates.threshold, evidence_of(every, names, prompts, n_classes))

    prompts = choose_prompts(plain, candidates.names, candidates.stored)
    labelled = with_prompts(plain, candidates.names, prompts)
    choice = chosen(labelled, prompts)
    if choice.alone.miou < before.miou:
        # Other names paid without a threshold, and what is stored has one.
        prompts, labelled = candidates.stored, stored
        choice = chosen(labelled, prompts)
    quantiles = conformal_quantiles(choice.held_out, labelled.classes, alpha) if alpha else None
    confusion = choice.outcome.confusions.sum(0)
    transition = transition_matrix(confusion, max(1.0, confusion.sum() / len(labelled.classes)))
    prior = class_prior(confusion)
    return Calibration(
        candidates, prompts, choice, before, labelled, quantiles, transition, prior, tuple(images)
    )


def check_classes(pixels: NDArray[np.int64], n_images: int, classes: Sequence[str]) -> None:
    """Refuse masks that hold fewer than two classes.

    Args:
        pixels: [C], in the masks of all images.
        n_images: how many there are.
        classes: names of the ids.

    Raises:
        UserError: so few.
    """
    present = [name for name, count in zip(classes, pixels, strict=True) if count]
    if len(present) < 2:
        held = present[0] if present else "no class"
        raise UserError(
            f"masks: those of {n_images} images hold {held} alone; calibration needs at least two classes"
        )


def embed_candidates(
    clip: ClipModel,
    stored_space: LabelSpace,
    space: LabelSpace,
    templates: Mapping[str, tuple[str, ...]],
    threshold: float,
) -> Candidates:
    """Embed all names to try.

    Args:
        clip: the text side of the CLIP that made the label set.
        stored_space: with the names of the label set.
        space: with all names to try.
        templates: by name, those of the label set first.
        threshold: of the label set.

    Raises:
        ValueError: no class has a name.
    """
    from segray.models.clip.text import embed_label_space

    classifiers = {name: embed_label_space(clip, space, texts) for name, texts in templates.items()}
    first = next(iter(classifiers))
    known = set(stored_space.names())
    return Candidates(
        space,
        Names(
            classifiers[first].class_ids.numpy(),
            {name: classifier.embeddings.numpy().astype(float) for name, classifier in classifiers.items()},
        ),
        templates,
        Prompts(first, np.array([pair in known for pair in space.names()])),
        threshold,
        classifiers[first].logit_scale,
    )
