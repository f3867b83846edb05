"""What images are compared with, and how similar segments are found in embeddings of many dimensions."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.review.neighbours import NeighbourSearch
from segray.pipelines.review.review import Places, Review
from segray.pipelines.review.scores import TruthMasks, open_compare
from tests.pipelines.review.conftest import CLASSES, HEIGHT, WIDTH, boxes, truth, write_labels, write_masks


@pytest.mark.parametrize("folder", ["masks", "."])
def test_labels_are_compared_with_what_predict_wrote(tmp_path: Path, folder: str) -> None:
    write_masks(tmp_path / "predicted")
    other = partial(open_compare, str(tmp_path / "predicted" / folder))

    review = Review(Places(str(write_labels(tmp_path))), other=other)
    review.scorer.run()

    assert review.marks.disagreement == pytest.approx([boxes()[0].sum() / (HEIGHT * WIDTH)] * 3)
    assert np.isnan(review.marks.errors).all()


def test_labels_are_compared_with_a_second_label_set_by_the_names_of_classes(tmp_path: Path) -> None:
    other = open_compare(str(write_labels(tmp_path / "other")), ("background", "house", "TREE"))

    found = other.read("a.png", (HEIGHT, WIDTH))

    assert found is not None
    assert np.array_equal(found == 2, truth() > 0)
    assert other.read("a.png", (1, 1)) is None
    assert other.read("no.png", (HEIGHT, WIDTH)) is None


def test_a_folder_without_masks_cannot_be_compared_with(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(UserError, match="no mask there"):
        open_compare(str(tmp_path / "empty"), CLASSES)


def test_binary_masks_are_no_truth_before_a_key_says_what_255_is(tmp_path: Path) -> None:
    root = write_masks(tmp_path)
    for path in root.rglob("*.png"):
        path.write_bytes(encode_gray_png((truth() > 0) * np.uint8(255)))

    with pytest.raises(UserError, match="these look like binary masks: object = 255"):
        Review(Places(str(write_labels(tmp_path))), partial(TruthMasks, MaskFolder(str(root))))


def test_what_lies_beside_the_masks_is_not_read(tmp_path: Path) -> None:
    root = write_masks(tmp_path)
    (root / "0.jpg").write_bytes(b"no mask")

    review = Review(Places(str(write_labels(tmp_path))), partial(TruthMasks, MaskFolder(str(root))))

    mask = review.true_label(0)
    assert mask is not None
    assert np.array_equal(mask, truth())


def test_the_nearest_of_many_dimensions_are_the_exact_ones() -> None:
    random = np.random.default_rng(0)
    middles = random.normal(size=(40, 256))
    class_id = random.integers(0, 40, 6000).astype(np.int32)
    embedding = (middles[class_id] + 0.4 * random.normal(size=(6000, 256))).astype(np.float16)
    search = NeighbourSearch(embedding, class_id)
    unit = embedding.astype(np.float32) / np.linalg.norm(embedding.astype(np.float32), axis=1, keepdims=True)
    among = random.random(6000) < 0.5

    found = search.nearest(7, among, 25)

    similarity = np.where(among & (np.arange(6000) != 7), unit @ unit[7], -2)
    best = np.argsort(-similarity)[:25]
    assert found.rows.tolist() == best.tolist()
    assert found.distances == pytest.approx(1 - similarity[best], abs=1e-4)
    own = search.likeness_to_class(found.rows, class_id[found.rows])
    other = search.likeness_to_class(found.rows, (class_id[found.rows] + 1) % 40)
    assert (own > other).all()
    assert search.likeness_to_class(found.rows[:1], np.array([99], np.int32)).tolist() == [-1]
