"""`pseudo.forward`: the mistakes of the labels on the labelled images, and what they change in a step."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import segray
from segray.models.metrics import confusion_matrix
from segray.models.semi.forward import mistake_matrix
from segray.models.semi.methods import METHODS
from segray.models.semi.student import Logits
from segray.pipelines.commands import calibrate
from segray.pipelines.config.commands.calibrate import CalibrateConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import load
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.training.augmentation.views import Views
from segray.pipelines.training.data.datasets import read_mask
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.mistakes import mistake_lines, mistakes_of
from segray.pipelines.training.options import check_pseudo
from segray.pipelines.training.step import Objective
from tests.models.segmenters.tiny_segmenter import TinySegmenter
from tests.pipelines.training.runs import book, config, curve, trainer
from tests.previous_version.archive import unpack


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return book(tmp_path_factory.mktemp("book"))


def matrix_of(run: TrainConfig, data: TrainingData | None = None) -> Tensor:
    found = mistakes_of(run, data or open_data(run.data, run.seed))
    assert found is not None
    return found


def test_the_mistakes_are_those_on_the_labelled_images(data: tuple[Path, Path], tmp_path: Path) -> None:
    run = config(tmp_path, *data, "pseudo.forward=true")
    opened = open_data(run.data, run.seed)
    labels = {Path(sample.image_id).stem: sample.label for sample in segray.LabelSet(data[0])}
    confusion = np.zeros((10, 10), np.int64)
    for sample in opened.labelled:
        label = labels[Path(sample.image_id).stem]
        known = label != 255
        confusion += confusion_matrix(read_mask(sample)[known], label[known], 10)
    assert confusion.any()
    expected = torch.from_numpy(mistake_matrix(confusion)).float()
    torch.testing.assert_close(matrix_of(run, opened), expected)
    (line,) = mistake_lines(run, opened)
    right, given = confusion.diagonal(), confusion.sum(0)
    worst = sorted((r / g, c) for c, (r, g) in enumerate(zip(right, given, strict=True)) if g)
    texts = [f"{opened.space.classes[c]} {100 * share:.1f} %" for share, c in worst[:6]]
    assert f"are right: {', '.join(texts)} and {len(worst) - 6} more" in line
    assert mistakes_of(config(tmp_path, *data), opened) is None
    assert mistake_lines(config(tmp_path, *data), opened) == []


def test_a_step_by_hand() -> None:
    """One pixel each: the network's own label, a zero-shot label, one by hand, and a pasted one."""
    run = load(TrainConfig, None, ["out=x", "data.root=x", "pseudo.tau=0.7", "pseudo.epsilon=0.1"])
    mistakes = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    objective = Objective(run, TinySegmenter(2), 2, torch.device("cpu"), mistakes=mistakes)
    probabilities = torch.tensor([[[0.9, 0.6, 0.6, 0.6]], [[0.6, 0.6, 0.6, 0.6]]])
    weak = torch.stack([probabilities, 1 - probabilities], 1).log()
    views = Views(
        labelled=torch.zeros(1, 3, 1, 4),
        mask=torch.zeros(1, 1, 4).long(),
        weak=torch.zeros(2, 3, 1, 4),
        zero_shot=torch.tensor([[[1, 1, 1, 1]], [[0, 0, 0, 0]]]),
        confidence=torch.ones(2, 1, 4),
        padding=torch.zeros(2, 1, 4).bool(),
        by_hand=torch.tensor([[[0, 0, 1, 0]], [[0, 0, 0, 0]]]).bool(),
        boxes=(torch.tensor([[[0, 0, 0, 1]], [[0, 0, 0, 0]]]).bool(),),
        partner=torch.tensor([1, 0]),
    )
    strong = torch.tensor([[[0.5, 0.5, 0.5, 0.5]], [[0.9, 0.9, 0.9, 0.9]]])
    logits = Logits(
        labelled=weak, weak=weak, strong=(torch.stack([strong, 1 - strong], 1).log(),), feature=None
    )
    found = objective._unsupervised(views, logits, objective.labels(views, weak, 0))
    half = -math.log(0.5)  # Eq. 8 of a half, whatever epsilon is
    first = [
        half,  # the network's 0 at 0.9
        -math.log(0.5 * 0.2 + 0.5 * 0.7),  # label 1
        half,  # 1 by hand
        -math.log(0.5 * 0.8 + 0.5 * 0.3),  # label 0 of the other image
    ]
    second = [-math.log(0.9 * 0.8 + 0.1 * 0.3)] * 4
    expected = METHODS["segray"].strong_weight * sum(first + second) / 8
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "epsilon"),
    [(["pseudo.forward=true"], 0), (["pseudo.forward=true", "pseudo.epsilon=0.2"], 0.2), ([], 0.1)],
)
def test_labels_are_not_smoothed_unless_one_says_so(words: list[str], epsilon: float, tmp_path: Path) -> None:
    run = load(TrainConfig, None, [f"out={tmp_path}", "data.root=x", *words])
    assert Objective(run, TinySegmenter(10), 10, torch.device("cpu")).epsilon == epsilon


def test_a_run_learns_otherwise(data: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["train.epochs=1", "pseudo.epsilon=0", "pseudo.tau=1.1"]
    plain = trainer(config(tmp_path / "a", *data, *words), tmp_path / "a").run()
    forward = trainer(config(tmp_path / "b", *data, *words, "pseudo.forward=true"), tmp_path / "b").run()
    assert curve(forward) != curve(plain)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["method=unimatch"],
            r"pseudo\.forward needs a method that uses zero-shot labels, not ",
        ),
        (["data.calibrate=true"], r"pseudo\.forward and data\.calibrate=true use the same masks"),
        (["pseudo.posterior=transition"], r"pseudo\.forward and pseudo\.posterior=transition use the same"),
    ],
)
def test_what_it_cannot_go_with_is_refused(
    data: tuple[Path, Path], tmp_path: Path, words: list[str], message: str
) -> None:
    run = config(tmp_path / "run", *data, "pseudo.forward=true", *words)
    with pytest.raises(UserError, match=message) as caught:
        check_pseudo(run, open_data(run.data, run.seed))
    assert "\n" not in str(caught.value)


def test_images_are_matched_as_the_run_matches_them(data: tuple[Path, Path], tmp_path: Path) -> None:
    run = config(tmp_path, *data, "pseudo.forward=true")
    moved = tmp_path / "moved"
    shutil.copytree(data[1], moved, ignore=shutil.ignore_patterns("out"))
    for path in [*moved.rglob("*.png")]:
        path.rename(path.with_name(f"x{path.name}"))
    other = config(tmp_path, data[0], moved, "pseudo.forward=true", "data.match=sha256")
    torch.testing.assert_close(matrix_of(other), matrix_of(run))


def test_what_a_person_gave_is_no_mistake(data: tuple[Path, Path], tmp_path: Path) -> None:
    run = config(tmp_path, *data, "pseudo.forward=true")
    opened = open_data(run.data, run.seed)
    by_hand = [replace(s, by_hand=encode_gray_png(read_mask(s))) for s in opened.labelled]
    torch.testing.assert_close(matrix_of(run, replace(opened, labelled=tuple(by_hand))), matrix_of(run))


def test_labels_that_are_not_used_make_no_mistakes(data: tuple[Path, Path], tmp_path: Path) -> None:
    run = config(tmp_path, *data, "pseudo.forward=true")
    opened = open_data(run.data, run.seed)
    sure = config(tmp_path, *data, "pseudo.forward=true", "pseudo.min_confidence=0.9")
    assert mistake_lines(sure, opened) != mistake_lines(run, opened)


def test_a_calibrated_label_set_is_refused(tmp_path: Path) -> None:
    root = unpack(tmp_path)
    words = [
        f"labels={root / 'labels'}",
        f"masks={root / 'book' / 'masks'}",
        f"out={tmp_path / 'calibrated'}",
    ]
    calibrate.execute(load(CalibrateConfig, None, words))
    places = [f"data.root={root / 'book'}", f"data.labels={tmp_path / 'calibrated'}", "data.labelled=4"]
    run = load(TrainConfig, None, ["out=x", "data.kind=picture_book", *places, "pseudo.forward=true"])
    with pytest.raises(
        UserError, match=r"^pseudo\.forward: data\.labels=\S+ was corrected by masks"
    ) as caught:
        mistakes_of(run, open_data(run.data, run.seed))
    assert "\n" not in str(caught.value)


def test_labelled_images_without_labels_are_named_before_training(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    run = config(tmp_path / "run", *data, "pseudo.forward=true")
    opened = open_data(run.data, run.seed)
    others = tuple(replace(s, image_id=f"else/{i}.png") for i, s in enumerate(opened.labelled))
    line = r"^pseudo\.forward: no labelled image has a label in data\.labels=\S+; annotate them too$"
    with pytest.raises(UserError, match=line):
        mistake_lines(run, replace(opened, labelled=others))
