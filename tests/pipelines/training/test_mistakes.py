"""`pseudo.forward`: the mistakes of the labels on the labelled images, and what they change in a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import segray
from segray.models.metrics import confusion_matrix
from segray.models.semi.forward import mistake_matrix
from segray.pipelines.commands import train
from segray.pipelines.errors import UserError
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.data.datasets import read_mask
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.mistakes import mistake_lines, mistakes_of
from tests.pipelines.training.runs import book, config, curve, trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return book(tmp_path_factory.mktemp("book"))


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
    found = mistakes_of(run, opened)
    assert found is not None
    torch.testing.assert_close(found, torch.from_numpy(mistake_matrix(confusion)).float())
    (line,) = mistake_lines(run, opened)
    right, given = confusion.diagonal(), confusion.sum(0)
    assert f"right on the labelled images: background {right[0] / given[0]:.0%}, " in line
    assert line.count("%") == (given > 0).sum()
    assert mistakes_of(config(tmp_path, *data), opened) is None
    assert mistake_lines(config(tmp_path, *data), opened) == []


def test_a_run_with_mistakes_learns_otherwise_and_the_labelled_images_alike(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ["train.epochs=1", "pseudo.epsilon=0", "pseudo.tau=1.1"]
    plain = trainer(config(tmp_path / "a", *data, *words), tmp_path / "a").run()
    words.append("pseudo.forward=true")
    forward = trainer(config(tmp_path / "b", *data, *words), tmp_path / "b").run()
    assert curve(forward) != curve(plain)
    assert forward[0]["unsupervised"] != pytest.approx(plain[0]["unsupervised"], rel=1e-3)


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
    from segray.pipelines.training.options import check_pseudo

    run = config(tmp_path / "run", *data, "pseudo.forward=true", *words)
    with pytest.raises(UserError, match=message) as caught:
        check_pseudo(run, open_data(run.data, run.seed))
    assert "\n" not in str(caught.value)


def test_labelled_images_without_labels_are_named_before_training(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    run = config(tmp_path / "run", *data, "pseudo.forward=true")
    opened = open_data(run.data, run.seed)
    others = replace(
        opened, labelled=tuple(replace(s, image_id=f"else/{i}.png") for i, s in enumerate(opened.labelled))
    )
    with pytest.raises(
        UserError, match=r"^pseudo\.forward: no labelled image has a label in data\.labels=\S+; "
    ):
        train.check(run, others)
    assert LabelStore(str(data[0])).parts()
    assert not (tmp_path / "run").exists()
