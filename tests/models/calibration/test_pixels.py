"""Names of pixels that masks teach, against cases computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from segray.models.calibration.heads import TEXT, Evidence, Head
from segray.models.calibration.pixels import masked_cells, taught_names, teach
from segray.models.calibration.prompts import text_scores
from segray.models.calibration.regions import MaskedImage
from segray.models.calibration.selection import Labelled, gather

IGNORED = 3


def _image(classes: list[int], embeddings: NDArray[np.float32]) -> MaskedImage:
    """One cell of four pixels per class and embedding."""
    truth = np.repeat(np.array([classes], np.uint8), 2, 0).repeat(2, 1)
    return masked_cells([(embeddings[None], truth)], 3, 100)


def _labelled(images: list[MaskedImage], text: NDArray[np.float64]) -> Labelled:
    labelled = gather(images)
    return replace(labelled, evidence=Evidence(labelled.evidence.embeddings, text, np.ones(3, bool)))


def test_a_cell_counts_its_own_pixels() -> None:
    truth = np.array([[0, 0, 1, 1, 1], [0, 2, 1, 1, 1], [9, 9, 9, 0, 2]], np.uint8)
    features = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    image = masked_cells([(features, truth)], IGNORED, 100)
    # Of 5 columns the first three are the first cell's, of 3 rows the first two; 9 is ignored.
    assert image.pixels.tolist() == [[3, 2, 1], [0, 4, 0], [1, 0, 1]]
    assert image.embeddings.tolist() == [[0, 1], [2, 3], [6, 7]]
    assert image.truth.tolist() == image.pixels.tolist()
    assert image.stacks.tolist() == [[0, -1], [1, -1], [2, -1]]


def test_tiles_are_one_image_and_cells_are_taken_evenly() -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    tiles = [(grid, np.zeros((3, 4), np.uint8)), (grid + 12, np.ones((3, 4), np.uint8))]
    every = masked_cells(tiles, 3, 100)
    assert every.embeddings.ravel().tolist() == list(range(24))
    assert every.pixels.sum(0).tolist() == [12, 12, 0]
    some = masked_cells(tiles, 3, 3)
    assert some.embeddings.ravel().tolist() == [0, 6, 11, 12, 18, 23]
    assert masked_cells([(grid, np.full((3, 4), 9, np.uint8))], 3, 100).pixels.shape == (0, 3)


def test_a_rare_class_keeps_its_share_of_the_cells_that_are_taken() -> None:
    truth = np.zeros((4, 6), np.uint8)
    truth[0, 1] = truth[2, 3] = truth[3, 5] = 1
    grid = np.arange(24, dtype=np.float32).reshape(4, 6, 1)
    taken = masked_cells([(grid, truth)], 3, 8)
    assert taken.pixels.sum(0).tolist() == [7, 1, 0]
    assert (np.diff(taken.embeddings.ravel()) > 0).all()


def test_taught_names_give_the_scores_of_the_head() -> None:
    rng = np.random.default_rng(0)
    embeddings, cells = rng.normal(size=(4, 5)), rng.normal(size=(50, 5))
    # Class 2 has no name, class 1 has two.
    class_ids = np.array([0, 1, 1, 3])
    text = text_scores(cells @ embeddings.T, class_ids, np.ones(4, bool), 4)
    head = Head(np.array([2.0, 0.5, 0.0, 0.0]), rng.normal(size=(5, 4)), rng.normal(size=4))
    expected = head.scores(Evidence(cells, text, np.array([True, True, False, True])))
    names = taught_names(head, embeddings, class_ids)
    assert names.class_ids.tolist() == [0, 1, 1, 3, 2]
    logits = cells @ names.embeddings.T + names.bias
    found = np.stack([logits[:, names.class_ids == c].max(1) for c in range(4)], 1)
    assert found == pytest.approx(expected, abs=1e-5)


def test_what_the_text_cannot_tell_masks_teach() -> None:
    axes = np.eye(3, dtype=np.float32)
    images = [_image([0, 1, 2], axes), _image([0, 1, 2], axes)]
    blind = np.full((6, 3), 0.2)
    blind[:, 0] = 0.3
    heads = teach(_labelled(images, blind))
    assert heads is not None
    assert sum(heads.weights.values()) == pytest.approx(1, abs=0.2)
    evidence = Evidence(axes.astype(float), blind[:3], np.ones(3, bool))
    for head in (heads.head, *heads.held_out):
        assert head.scores(evidence).argmax(1).tolist() == [0, 1, 2]
    assert len(heads.held_out) == 2


def test_an_image_is_judged_without_what_it_teaches() -> None:
    axes = np.eye(3, dtype=np.float32)
    # Class 2 is in the second image alone: the head that judges that image knows no weights for it.
    images = [_image([0, 1, 1], axes[[0, 1, 1]]), _image([0, 1, 2], axes)]
    rng = np.random.default_rng(0)
    heads = teach(_labelled(images, rng.normal(0, 0.1, (6, 3))))
    assert heads is not None
    assert not heads.held_out[1].weights[:, 2].any()
    assert heads.held_out[0].weights[:, 2].any()
    assert heads.head.weights[:, 2].any()


def test_a_class_without_names_is_taught_by_masks_alone() -> None:
    axes = np.eye(3, dtype=np.float32)
    labelled = _labelled([_image([0, 1, 2], axes), _image([0, 1, 2], axes)], np.full((6, 3), 0.2))
    named = np.array([False, True, True])
    evidence = Evidence(labelled.evidence.embeddings, labelled.evidence.text, named)
    heads = teach(replace(labelled, evidence=evidence))
    assert heads is not None
    assert not {name for name in heads.weights if name == TEXT or name.startswith("bias")}
    seen = Evidence(axes.astype(float), np.full((3, 3), 0.2), named)
    assert heads.head.scores(seen).argmax(1).tolist() == [0, 1, 2]


def test_a_single_image_teaches_nothing_that_could_be_judged() -> None:
    images = [_image([0, 1, 2], np.eye(3, dtype=np.float32))]
    assert teach(_labelled(images, np.zeros((3, 3)))) is None


def test_rare_classes_are_lifted() -> None:
    axes = np.eye(3, dtype=np.float32)
    classes = [0] * 18 + [1, 2]
    images = [_image(classes, axes[classes]) for _ in range(2)]
    heads = teach(_labelled(images, np.full((40, 3), 0.2)))
    assert heads is not None
    # What looks like none of them is of no class by the text; its bias follows the frequencies.
    nowhere = Evidence(np.zeros((1, 3)), np.zeros((1, 3)), np.ones(3, bool))
    common, rare, other = heads.head.scores(nowhere)[0]
    assert rare > common
    assert rare == pytest.approx(other)
