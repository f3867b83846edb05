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


ALL = np.ones(2, bool)


def test_scores_by_hand() -> None:
    centres = Centres(np.array([1.0, 0.0]), np.eye(2), np.array([0.0, -1.0]), ALL, ALL)
    scores = centres.scores(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[4.0, 4.0], [1.0, 2.0]]))
    assert scores[0] == pytest.approx([np.log(0.5) + 3, np.log(0.5) + 4 - 1])
    # No share is less than one in a million.
    assert scores[1] == pytest.approx([0, np.log(1e-6) + 2 - 1])


def test_a_class_without_a_labelled_segment_counts_as_much_as_the_likeliest_one_with() -> None:
    taught = np.array([True, False])
    centres = Centres(np.zeros(2), np.eye(2), np.zeros(2), ALL, taught)
    scores = centres.scores(np.array([[0.4, 0.6], [0.4, 0.6]]), np.array([[1.0, 4.0], [4.0, 1.0]]))
    # Where its own centre is nearer, the naming decides; where it is farther, it counts as it is.
    assert scores[0] == pytest.approx([np.log(0.4) + 1, np.log(0.6) + 1])
    assert scores[1] == pytest.approx([np.log(0.4) + 4, np.log(0.6) + 1])


def test_a_named_class_that_is_nowhere_takes_no_segments() -> None:
    rng = np.random.default_rng(6)
    classes, looks = rng.integers(0, 2, 400), rng.normal(0, 0.5, 400)
    embeddings = AXES[classes] + rng.normal(0, 0.05, (400, 8)) + looks[:, None] * np.eye(8)[7]
    # Some of the second class's segments, of one look, have the name of a class that is in no image.
    named = np.where((classes == 1) & (looks > 0.5), 2, classes)
    prior = np.full((400, 3), 0.2)
    prior[np.arange(400), named] = 0.6
    drawn = class_centres(prior, embeddings, AXES[:2], np.arange(2))
    assert ((drawn.scores(prior, embeddings).argmax(1) == 2) <= (named == 2)).all()
    # With a labelled segment it would be a class like the others.
    free = replace(drawn, taught=np.ones(3, bool)).scores(prior, embeddings).argmax(1)
    assert ((free == 2) & (named != 2)).any()


def test_a_class_that_is_nowhere_does_not_grow_over_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    classes, looks = rng.integers(0, 2, 400), rng.normal(0, 0.5, 400)
    embeddings = AXES[classes] + rng.normal(0, 0.05, (400, 8)) + looks[:, None] * np.eye(8)[7]
    prior = np.full((400, 3), 0.2)
    prior[np.arange(400), np.where((classes == 1) & (looks > 0.5), 2, classes)] = 0.6
    away = []
    for rounds in (1, 20):
        monkeypatch.setattr(centres, "_ROUNDS", rounds)
        drawn = class_centres(prior, embeddings, AXES[:2], np.arange(2))
        # As if it counted in full: how far its centre has come.
        free = replace(drawn, taught=np.ones(3, bool)).scores(prior, embeddings)
        away.append((free.argmax(1) == 2).sum())
    assert away[1] <= away[0]


def test_a_labelled_class_that_the_naming_never_gives_holds_nothing_back() -> None:
    embeddings = np.concatenate([np.repeat(AXES, 40, axis=0), np.repeat(AXES[1:2], 40, axis=0)])
    prior = np.tile([0.0, 0.5, 0.5], (160, 1))
    drawn = class_centres(prior, embeddings, AXES[:1], np.array([0]))
    assert drawn.taught.tolist() == [False, False, False]
    assert np.isfinite(drawn.scores(prior, embeddings)[:, 1:]).all()


def test_centres_and_covariance_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centres, "_ROUNDS", 1)
    monkeypatch.setattr(centres, "_TAUGHT", 1.0)
    embeddings = np.array([[3.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-3.0, -1.0]])
    prior = np.repeat(np.eye(2), 2, axis=0)
    drawn = class_centres(prior, embeddings, embeddings, np.array([0, 0, 1, 1]))
    # Centres (2, 0) and (-2, 0); within the classes [[1, 1], [1, 1]] of 8 segments, to which a sphere of
    # radius 1 comes with a share of 2 / (8 + 2).
    covariance = np.array([[1, 0.8], [0.8, 1]])
    weights = np.array([[2.0, 0.0], [-2.0, 0.0]]) @ np.linalg.inv(covariance)
    assert drawn.weights == pytest.approx(weights)
    assert drawn.bias == pytest.approx([-weights[0, 0], weights[1, 0]])


def test_a_labelled_segment_counts_five_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centres, "_ROUNDS", 1)
    rng = np.random.default_rng(1)
    embeddings, prior = rng.normal(size=(30, 4)), rng.dirichlet(np.ones(3), 30)
    labelled = rng.normal(size=(1, 4))
    once = class_centres(prior, embeddings, labelled, np.array([2]))
    # Five more segments that are of its class for sure, around the same mean.
    mean = embeddings.mean(0)
    monkeypatch.setattr(centres, "_TAUGHT", 1.0)
    five = class_centres(prior, embeddings, np.repeat(labelled, 5, axis=0), np.full(5, 2))
    assert once.mean == pytest.approx(mean)
    assert once.weights == pytest.approx(five.weights)
    assert once.bias == pytest.approx(five.bias)


def test_directions_in_which_a_class_varies_say_little() -> None:
    rng = np.random.default_rng(3)
    # Two classes 1 apart along the first axis, each spread ten times as far along the second.
    classes = rng.integers(0, 2, 400)
    embeddings = np.stack([classes - 0.5, rng.normal(0, 10, 400)], 1) + rng.normal(0, 0.1, (400, 2))
    prior = np.where(np.eye(2)[classes] == 1, 0.6, 0.4)
    prior[rng.random(400) < 0.2] = 0.5
    drawn = class_centres(prior, embeddings, np.array([[-0.5, 0.0], [0.5, 0.0]]), np.arange(2))
    assert (drawn.scores(np.full((400, 2), 0.5), embeddings).argmax(1) == classes).all()


def test_equal_embeddings_leave_the_naming() -> None:
    prior = np.array([[0.9, 0.1], [0.3, 0.7]] * 60)
    embeddings = np.tile(AXES[:1], (120, 1))
    drawn = class_centres(prior, embeddings, AXES[:1], np.array([0]))
    assert (drawn.scores(prior, embeddings).argmax(1) == prior.argmax(1)).all()


def test_a_class_that_nothing_names_stays_out() -> None:
    rng = np.random.default_rng(4)
    embeddings = np.concatenate(
        [AXES[0] + rng.normal(0, 0.1, (200, 8)), -AXES[0] + rng.normal(0, 0.1, (40, 8))]
    )
    prior = np.tile([0.7, 0.3, 0.0], (240, 1))
    drawn = class_centres(prior, embeddings, AXES[:1], np.array([0]))
    assert drawn.possible.tolist() == [True, True, False]
    scores = drawn.scores(prior, embeddings)
    assert np.isneginf(scores[:, 2]).all()
    assert np.isfinite(scores[:, :2]).all()


def test_segments_that_look_alike_outvote_wrong_names() -> None:
    rng = np.random.default_rng(0)
    classes, evidence = segments(rng, 600, right=0.6)
    prior = np.full((600, N_CLASSES), 0.2)
    prior[np.arange(600), evidence.text.argmax(1)] = 0.6
    assert (prior.argmax(1) == classes).mean() < 0.65
    drawn = class_centres(prior, evidence.embeddings, AXES, np.arange(N_CLASSES))
    assert (drawn.scores(prior, evidence.embeddings).argmax(1) == classes).mean() > 0.97


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


def test_centres_that_lose_on_images_held_out_are_not_used() -> None:
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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_images", [1, 2])
def test_one_image_with_segments_has_no_centres(n_images: int) -> None:
    rng = np.random.default_rng(8)
    labelled = replace(labelled_images(rng, 1, right=0.8), n_images=n_images)
    _, everything = segments(rng, 600, right=0.8)
    assert choose(labelled, -1.0, everything).naming.centres is None


def test_shares_say_how_often_they_are_right() -> None:
    rng = np.random.default_rng(9)
    labelled = labelled_images(rng, 12, right=0.6, noise=0.6)
    classes, everything = segments(rng, 2000, right=0.6, noise=0.6)
    naming = choose(labelled, -1.0, everything).naming
    assert naming.centres is not None
    assert naming.factor != 1
    shares = naming.shares(everything)
    scores = naming.factor * naming.drawn_scores(everything)
    assert shares == pytest.approx(np.exp(scores) / np.exp(scores).sum(1, keepdims=True))
    right, said = (shares.argmax(1) == classes).mean(), shares.max(1).mean()
    untempered = replace(naming, factor=1.0).shares(everything).max(1).mean()
    assert abs(said - right) < 0.5 * abs(untempered - right)
