"""`pseudo.refine`: a run's labels follow the edges of their images, as far as its masks favour it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from segray.models.metrics import confusion_matrix, mean_iou
from segray.models.semi.forward import mistake_matrix
from segray.models.semi.refinement import refined_labels
from segray.pipelines.corrections.apply import SURE
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.scenes.picture_book import draw_scene
from segray.pipelines.training.data.datasets import LabelledImages, UnlabelledImages, read_mask
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.masked_labels import masked_labels
from segray.pipelines.training.mistakes import mistakes_of
from segray.pipelines.training.options import check_pseudo
from segray.pipelines.training.refine import STEPS, refine_lines, refine_steps
from tests.pipelines.label_set.small_store import ok_row, png, write_manifest, write_store
from tests.pipelines.training.runs import config, curve, trainer

SIZE = 96


def scenes(folder: Path, grown: int) -> tuple[Path, Path]:
    """(label set, data set) of scenes whose labels are the masks, each object `grown` pixels too large."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = []
    for index in range(8):
        scene, name = draw_scene(3, index, SIZE), f"{index:04}.png"
        (folder / "images" / name).write_bytes(png(scene.image))
        (folder / "masks" / name).write_bytes(encode_gray_png(scene.mask))
        label: NDArray[np.uint8] = maximum_filter(scene.mask, 2 * grown + 1)
        sure = np.where(label > 0, 200, 0).astype(np.uint8)
        rows.append({**ok_row(name, label, confidence=sure, image=png(scene.image)), "image": None})
    write_store(folder / "out", rows)
    write_manifest(
        folder / "out", {row["image_id"]: str(folder / "images" / row["image_id"]) for row in rows}
    )
    return folder / "out", folder


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return scenes(tmp_path_factory.mktemp("blobs"), grown=5)


def test_the_masks_choose_how_far_labels_follow_edges(blobs: tuple[Path, Path], tmp_path: Path) -> None:
    run = config(tmp_path, *blobs, "pseudo.refine=null")
    data = open_data(run.data, run.seed)
    scores = []
    for steps in STEPS:
        confusion = np.zeros((10, 10), np.int64)
        for image, mask in (LabelledImages(data.labelled)[i] for i in range(len(data.labelled))):
            grown: NDArray[np.uint8] = maximum_filter(mask.numpy(), 11)
            ((label, _),) = refined_labels(image, grown, [steps], 255)
            confusion += confusion_matrix(mask.numpy(), label, 10)
        scores.append(mean_iou(confusion))
    best = STEPS[int(np.argmax(scores))]
    assert best > 0
    assert refine_steps(run, data) == best
    (line,) = refine_lines(run, data)
    assert f"follow the images' edges, {best} steps" in line
    assert ", ".join(f"{100 * score:.1f} % ({n})" for n, score in zip(STEPS, scores, strict=True)) in line
    assert refine_lines(config(tmp_path, *blobs, "pseudo.refine=3"), data) == []


def test_labels_that_are_right_stay_as_they_are(tmp_path: Path) -> None:
    run = config(tmp_path / "run", *scenes(tmp_path / "right", grown=0), "pseudo.refine=null")
    data = open_data(run.data, run.seed)
    assert refine_steps(run, data) == 0
    assert "stay as they are" in refine_lines(run, data)[0]


def test_a_run_reads_refined_labels(blobs: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["train.epochs=1", "pseudo.tau=1.1"]
    plain = trainer(config(tmp_path / "a", *blobs, *words), tmp_path / "a")
    refined = trainer(config(tmp_path / "b", *blobs, *words, "pseudo.refine=10"), tmp_path / "b")
    _, stored, sure = plain.dataset.unlabelled[0]
    image, label, confidence = refined.dataset.unlabelled[0]
    ((expected, share),) = refined_labels(image, stored.numpy(), [10], 255)
    changed = expected != stored.numpy()
    assert changed.any()
    np.testing.assert_array_equal(label.numpy(), expected)
    np.testing.assert_array_equal(
        confidence.numpy(), np.where(changed, np.rint(share * (SURE - 1)).astype(np.uint8), sure.numpy())
    )
    histories = plain.run(), refined.run()
    assert curve(histories[0]) != curve(histories[1])
    # Validation scores the labels that the run learns from.
    assert histories[1][0]["zero_shot_miou"] > histories[0][0]["zero_shot_miou"] + 0.1


def test_mistakes_are_those_of_refined_labels(blobs: tuple[Path, Path], tmp_path: Path) -> None:
    run = config(tmp_path, *blobs, "pseudo.refine=10", "pseudo.forward=true")
    data = open_data(run.data, run.seed)
    confusion = np.zeros((10, 10), np.int64)
    for one in masked_labels(run, data, str(blobs[0]), "test"):
        ((label, _),) = refined_labels(one.image, one.label, [10], 255)
        confusion += confusion_matrix(one.truth, label, 10)
    found = mistakes_of(run, data)
    assert found is not None
    torch.testing.assert_close(found, torch.from_numpy(mistake_matrix(confusion)).float())


def test_what_a_person_gave_is_not_refined(blobs: tuple[Path, Path], tmp_path: Path) -> None:
    run = config(tmp_path, *blobs)
    data = open_data(run.data, run.seed)
    sample = data.labelled[0]
    given: NDArray[np.uint8] = maximum_filter(read_mask(sample), 11)
    by_hand = replace(sample, by_hand=encode_gray_png(given))
    _, label, confidence = UnlabelledImages([by_hand], str(blobs[0]), data.space.classes, refine=20)[0]
    np.testing.assert_array_equal(label.numpy(), given)
    assert (confidence == SURE).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["method=unimatch", "pseudo.refine=5"],
            r"pseudo\.refine needs a method that uses zero-shot labels, not method=unimatch",
        ),
        (
            ["data.calibrate=true", "pseudo.refine=null"],
            r"pseudo\.refine=null and data\.calibrate=true use the same masks",
        ),
    ],
)
def test_what_it_cannot_go_with_is_refused(
    blobs: tuple[Path, Path], tmp_path: Path, words: list[str], message: str
) -> None:
    run = config(tmp_path / "run", *blobs, *words)
    with pytest.raises(UserError, match=message) as caught:
        check_pseudo(run, open_data(run.data, run.seed))
    assert "\n" not in str(caught.value)


def test_masks_beside_labels_without_a_class_choose_nothing(blobs: tuple[Path, Path], tmp_path: Path) -> None:
    run = config(tmp_path, *blobs, "pseudo.refine=null", "pseudo.min_confidence=0.9")
    line = r"^pseudo\.refine=null: no pixel of the labelled images has both a class and a label$"
    with pytest.raises(UserError, match=line):
        refine_lines(run, open_data(run.data, run.seed))
