"""Regions against drawn label maps, and what is chosen by images held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from segray.models.calibration.heads import TEXT, Evidence
from segray.models.calibration.prompts import Names, Prompts, choose_prompts, text_scores, with_prompts
from segray.models.calibration.regions import MaskedImage, join_regions, masked_image
from segray.models.calibration.selection import (
    Labelled,
    Outcome,
    Rule,
    average_weights,
    choose,
    gather,
    named_scores,
    stability_floors,
)
from segray.models.label_map import SegmentClasses, render_label_map, split
from segray.models.masks import Segment, segment_from_mask
from segray.models.metrics import confusion_matrix

N_CLASSES = 3


def _random_segments(rng: np.random.Generator, count: int) -> list[Segment]:
    segments = []
    for _ in range(count):
        mask = np.zeros((16, 20), bool)
        y, x, h, w = *rng.integers(0, 10, 2), *rng.integers(2, 7, 2)
        mask[y : y + h, x : x + w] = True
        segments.append(segment_from_mask(mask, stability_score=float(rng.uniform(0.8, 1))))
    return segments


def test_regions_count_what_the_drawn_label_map_shows() -> None:
    rng = np.random.default_rng(0)
    images, wanted, class_ids, shown = [], [], [], []
    for _ in range(4):
        segments = _random_segments(rng, 6)
        # Areas that differ: ties go by the score, which regions do not know.
        segments = [s for i, s in enumerate(segments) if s.area not in {t.area for t in segments[:i]}]
        k = len(segments)
        truth = rng.choice([0, 1, 2, 255], (16, 20)).astype(np.uint8)
        ids, has_class = rng.integers(0, N_CLASSES, k), rng.random(k) < 0.7
        scores = np.zeros(k, np.float32)
        classes = SegmentClasses(
            ids.astype(np.int16), scores, scores, scores, ids.astype(np.int16), has_class
        )
        label, _ = render_label_map(segments, classes, 16, 20)
        wanted.append(confusion_matrix(truth, label, N_CLASSES))
        images.append(masked_image(segments, np.zeros((k, 2)), truth, N_CLASSES))
        class_ids.append(ids)
        shown.append(has_class)
    found = join_regions(images).confusions(np.concatenate(class_ids), np.concatenate(shown), 4)
    assert np.array_equal(found[:, :, :N_CLASSES], np.array(wanted))
    assert not found[:, :, N_CLASSES].any()


def test_regions_count_ids_of_16_bits() -> None:
    truth = np.full((4, 4), 300, np.uint16)
    truth[0], truth[1] = 65535, 299
    found = masked_image([], np.zeros((0, 2)), truth, 301)
    assert found.truth.sum() == 12
    assert (found.truth[0, 299], found.truth[0, 300]) == (4, 8)


def test_an_image_without_segments_is_background() -> None:
    truth = np.array([[0, 1], [1, 255]], np.uint8)
    image = masked_image([], np.zeros((0, 2)), truth, N_CLASSES)
    found = join_regions([image]).confusions(np.zeros(0, np.int64), np.zeros(0, bool), 1)
    assert found[0, :, 0].tolist() == [1, 2, 0]


def test_a_segment_of_ignored_pixels_is_left_out() -> None:
    ignored, seen = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    ignored[:2], seen[2:] = True, True
    truth = np.where(ignored, 255, 1).astype(np.uint8)
    segments = [segment_from_mask(ignored), segment_from_mask(seen)]
    labelled = gather([masked_image(segments, np.eye(2), truth, N_CLASSES)])
    assert labelled.classes.tolist() == [1]
    assert labelled.evidence.embeddings.tolist() == [[0, 1]]
    assert labelled.regions.stacks[:, 0].tolist() == [0]


def test_the_usual_stability_is_that_of_segments_anywhere() -> None:
    image = replace(
        masked_image([segment_from_mask(np.ones((2, 2), bool))], np.eye(2)[:1], np.ones((2, 2), np.uint8), 2),
        stability=np.array([0.99]),
    )
    assert stability_floors(gather([image])) == [0.99, 0.99, 0.99]
    assert stability_floors(gather([image], np.zeros(0))) == [0.99, 0.99, 0.99]
    anywhere = np.linspace(0.9, 1, 101)
    assert stability_floors(gather([image], anywhere)) == pytest.approx([0.91, 0.905, 0.92])
    assert gather([image], anywhere).stability.tolist() == [0.99]


def _world(seed: int, n_images: int, noise: float, wrong: bool) -> Labelled:
    """Images of three objects each, whose text scores are right or know two classes by the wrong names."""
    rng = np.random.default_rng(seed)
    axes = np.eye(8)[: N_CLASSES + 1]
    images, text = [], []
    for _ in range(n_images):
        classes = rng.integers(0, N_CLASSES, 5)
        truth = np.repeat(classes, 4).reshape(1, -1).astype(np.uint8)
        masks = [np.arange(20).reshape(1, -1) // 4 == k for k in range(5)]
        embeddings = axes[classes] + rng.normal(0, noise, (5, 8))
        images.append(masked_image([segment_from_mask(m) for m in masks], embeddings, truth, N_CLASSES))
        swapped = np.array([0, 2, 1])[classes] if wrong else classes
        text.append(np.eye(N_CLASSES)[swapped] * 0.2 + rng.normal(0, 0.02, (5, N_CLASSES)))
    labelled = gather(images)
    evidence = Evidence(labelled.evidence.embeddings, np.concatenate(text), np.ones(N_CLASSES, bool))
    return replace(labelled, evidence=evidence)


def test_right_names_stay_as_they_are() -> None:
    choice = choose(_world(0, 8, 0.3, wrong=False), -1.0)
    assert choice.naming.names == (TEXT,)
    assert choice.outcome.miou == 1


def test_wrong_names_are_replaced_by_what_the_masks_show() -> None:
    labelled, fresh = _world(0, 8, 0.1, wrong=True), _world(1, 20, 0.1, wrong=True)
    choice = choose(labelled, -1.0)
    assert choice.naming.names != (TEXT,)
    assert sum(choice.naming.weights) == pytest.approx(1)
    assert labelled.score(named_scores(labelled.evidence), labelled.shown(Rule(-1.0))).miou < 0.5
    assert choice.outcome.miou > 0.95
    assert fresh.score(choice.naming.shares(fresh.evidence), fresh.shown(choice.rule)).miou > 0.95


def test_the_choice_is_never_worse_than_the_default_on_the_labelled_images() -> None:
    for seed in range(6):
        labelled = _world(seed, 3, 1.5, wrong=False)
        before = labelled.score(named_scores(labelled.evidence), labelled.shown(Rule(0.1))).miou
        assert choose(labelled, 0.1).outcome.miou >= before


def test_a_threshold_that_hides_right_segments_is_dropped() -> None:
    labelled = _world(0, 8, 0.1, wrong=False)
    choice = choose(labelled, 0.25)
    assert choice.rule.threshold == -1
    assert choice.outcome.miou == 1


def test_gains_have_the_jackknife_s_error() -> None:
    def outcome(right: list[int]) -> Outcome:
        return Outcome(np.array([[[n, 10 - n], [0, 10]] for n in right]))

    better, worse = outcome([10, 10, 10]), outcome([10, 5, 0])
    gain, error = better.gain_over(worse)
    # IoU of worse: 15/30 and 30/45. Without each image: 5/20, 20/35; 10/20, 20/30; 15/20, 20/25.
    without = 1 - np.array([(5 / 20 + 20 / 35) / 2, (10 / 20 + 20 / 30) / 2, (15 / 20 + 20 / 25) / 2])
    assert gain == pytest.approx(1 - (0.5 + 2 / 3) / 2)
    assert error == pytest.approx(np.sqrt(2 / 3 * ((without - without.mean()) ** 2).sum()))
    assert better.pays_over(worse)
    assert not better.pays_over(better)


def test_candidates_weigh_by_what_they_reach() -> None:
    weights = average_weights([0.7, 0.75, 0.2])
    assert weights[2] == 0
    assert weights[1] / weights[0] == pytest.approx(np.e)
    assert sum(weights) == pytest.approx(1)


def _named_world() -> tuple[Labelled, Names]:
    """Class 1 has a right name and a name that looks like class 2."""
    labelled = _world(0, 8, 0.05, wrong=False)
    axes = np.eye(8)
    embeddings = np.array([axes[0], axes[1], 1.2 * axes[2], axes[2]])
    return labelled, Names(np.array([0, 1, 1, 2]), {"stored": embeddings, "other": embeddings})


def test_a_name_that_costs_another_class_is_dropped() -> None:
    labelled, names = _named_world()
    chosen = choose_prompts(labelled, names, Prompts("stored", np.ones(4, bool)))
    assert chosen.used.tolist() == [True, True, False, True]
    assert chosen.templates == "stored"


def test_names_that_do_no_harm_stay() -> None:
    labelled, names = _named_world()
    harmless = Names(names.class_ids, {"stored": np.eye(8)[[0, 1, 1, 2]]})
    chosen = choose_prompts(labelled, harmless, Prompts("stored", np.ones(4, bool)))
    assert chosen.used.all()


def test_other_templates_are_chosen_where_they_pay() -> None:
    labelled, names = _named_world()
    right = np.eye(8)[[0, 1, 1, 2]]
    names = Names(names.class_ids, {"stored": right[[0, 3, 3, 1]], "other": right})
    chosen = choose_prompts(labelled, names, Prompts("stored", np.array([True, True, False, True])))
    assert chosen.templates == "other"


def test_a_class_scores_with_its_best_used_name() -> None:
    cosines = np.array([[0.1, 0.4, 0.3]])
    ids = np.array([0, 0, 2])
    assert text_scores(cosines, ids, np.array([True, True, True]), 3).tolist() == [[0.4, 0, 0.3]]
    assert text_scores(cosines, ids, np.array([True, False, True]), 3).tolist() == [[0.1, 0, 0.3]]


def test_prompts_name_only_classes_that_have_a_name() -> None:
    image = MaskedImage(
        np.eye(3), np.ones(3), np.eye(3, dtype=np.int64), np.array([[0, -1]]), np.array([[1, 0, 0]])
    )
    names = Names(np.array([1, 2]), {"stored": np.eye(3)[:2]})
    labelled = with_prompts(gather([image]), names, Prompts("stored", np.array([True, False])))
    assert labelled.evidence.named.tolist() == [False, True, False]
    assert named_scores(labelled.evidence).argmax(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("unknown", [None, np.array([True, False, True])])
def test_classes_of_several_images_are_split_with_and_without_doubt(
    unknown: NDArray[np.bool_] | None,
) -> None:
    ids, scores = np.array([1, 2, 0], np.int16), np.zeros(3, np.float32)
    classes = SegmentClasses(ids, scores, scores, scores, ids, np.ones(3, bool), unknown)
    first, second = split(classes, [1, 2])
    assert (first.class_id.tolist(), second.class_id.tolist()) == ([1], [2, 0])
    found = [part.unknown if part.unknown is None else part.unknown.tolist() for part in (first, second)]
    assert found == ([None, None] if unknown is None else [[True], [False, True]])
