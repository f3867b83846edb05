"""Class centres of a whole label set: what they change, and when they are used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segray.models.calibration import centres
from segray.models.calibration.centres import LEAST_SEGMENTS, Centres, class_centres
from segray.models.calibration.heads import Evidence
from segray.models.calibration.regions import masked_image
from segray.models.calibration.selection import Labelled, choose, gather
from segray.models.masks import segment_from_mask

N_CLASSES = 3
AXES = np.eye(8)[:N_CLASSES]


def segments(
    rng: np.random.Generator, n: int, right: float, noise: float = 0.15
) -> tuple[np.ndarray, Evidence]:
    """True classes of n segments, and text scores that name only a part of them rightly."""
    classes = rng.integers(0, N_CLASSES, n)
    named = np.where(rng.random(n) < right, classes, (classes + rng.integers(1, N_CLASSES, n)) % N_CLASSES)
    embeddings = AXES[classes] + rng.normal(0, noise, (n, 8))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    text = np.eye(N_CLASSES)[named] * 0.2 + rng.normal(0, 0.02, (n, N_CLASSES))
    return classes, Evidence(embeddings, text, np.ones(N_CLASSES, bool))


def labelled_images(rng: np.random.Generator, n_images: int, right: float, noise: float = 0.15) -> Labelled:
    """Images of five segments each, with masks."""
    images, text = [], []
    for _ in range(n_images):
        classes, evidence = segments(rng, 5, right, noise)
        truth = np.repeat(classes, 4).reshape(1, -1).astype(np.uint8)
        masks = [segment_from_mask(np.arange(20).reshape(1, -1) // 4 == k) for k in range(5)]
        images.append(masked_image(masks, evidence.embeddings, truth, N_CLASSES))
        text.append(evidence.text)
    labelled = gather(images)
    evidence = replace(labelled.evidence, text=np.concatenate(text), named=np.ones(N_CLASSES, bool))
    return replace(labelled, evidence=evidence)


def test_shares_by_hand() -> None:
    drawn = Centres(np.zeros(2), np.eye(2), np.ones(2, bool))
    found = drawn.shares(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 2.0]]))
    # exp(10 * 0.6) to exp(10 * 0.8); and a share of 1e-6 against exp(10).
    assert found[0] == pytest.approx([1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))])
    assert found[1] == pytest.approx([1 / (1 + 1e-6 * np.exp(10)), 1 / (1 + 1e6 * np.exp(-10))])


def test_a_labelled_segment_counts_five_times() -> None:
    embeddings = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    prior = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    drawn = class_centres(prior, embeddings, np.array([[0.0, 1.0]]), np.array([0]))
    # One segment to the right and five upwards; of the second one's share a little comes along.
    assert drawn.of_class[0] == pytest.approx(np.array([1, 5]) / np.sqrt(26), abs=1e-3)


def test_a_class_that_nothing_names_stays_out() -> None:
    rng = np.random.default_rng(4)
    embeddings = np.concatenate(
        [AXES[0] + rng.normal(0, 0.1, (200, 8)), -AXES[0] + rng.normal(0, 0.1, (40, 8))]
    )
    prior = np.tile([0.7, 0.3, 0.0], (240, 1))
    drawn = class_centres(prior, embeddings, AXES[:1], np.array([0]))
    assert drawn.possible.tolist() == [True, True, False]
    assert not drawn.shares(prior, embeddings)[:, 2].any()


def test_segments_that_look_alike_outvote_wrong_names() -> None:
    rng = np.random.default_rng(0)
    classes, evidence = segments(rng, 600, right=0.6)
    prior = np.full((600, N_CLASSES), 0.2)
    prior[np.arange(600), evidence.text.argmax(1)] = 0.6
    assert (prior.argmax(1) == classes).mean() < 0.65
    drawn = class_centres(prior, evidence.embeddings, AXES, np.arange(N_CLASSES))
    assert (drawn.shares(prior, evidence.embeddings).argmax(1) == classes).mean() > 0.97


@pytest.mark.parametrize("seed", range(5))
def test_a_few_masks_and_all_segments_name_better_than_a_few_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labelled = labelled_images(rng, 2, right=0.6, noise=0.35)
    classes, everything = segments(rng, 600, right=0.6, noise=0.35)
    found = [choose(labelled, -1.0, pool).naming for pool in (None, everything)]
    right = [(naming.shares(everything).argmax(1) == classes).mean() for naming in found]
    assert found[0].centres is None
    assert found[1].centres is not None
    assert right[1] > max(right[0], 0.93)


def test_centres_that_lose_on_images_held_out_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centres, "_SHARPNESS", 40.0)
    rng = np.random.default_rng(2)
    labelled = labelled_images(rng, 4, right=1.0)
    _, everything = segments(rng, 3000, right=1.0)
    # A label set in which two classes have each other's names.
    swapped = replace(everything, text=everything.text[:, [0, 2, 1]])
    assert choose(labelled, -1.0, everything).naming.centres is not None
    choice = choose(labelled, -1.0, swapped)
    assert choice.naming.centres is None
    assert choice.outcome.miou == 1


def test_a_small_label_set_has_no_centres() -> None:
    rng = np.random.default_rng(3)
    labelled = labelled_images(rng, 8, right=0.6)
    _, everything = segments(rng, LEAST_SEGMENTS, right=0.6)
    few = everything[np.arange(LEAST_SEGMENTS) > 0]
    assert choose(labelled, -1.0, everything).naming.centres is not None
    assert choose(labelled, -1.0, few).naming.centres is None
