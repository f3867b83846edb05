"""Each command that reads images says what values they have, before it works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.cli import main
from tests.pipelines.plain_runs import OPTIONS
from tests.pipelines.trained_network import write_run
from tests.pipelines.training.data.small_sets import folder_set

BUILTIN = [*OPTIONS, "classes=cat,dog", "sam.points_per_side=1"]


def deep_set(folder: Path) -> Path:
    """A data set whose images have 16 bits of a small range; their limits are those of the line."""
    root = folder_set(folder / "set")
    for number, path in enumerate(sorted((root / "images").rglob("*.png"))):
        with Image.open(path) as image:
            width, height = image.size
        values = np.linspace(100 + number, 2000 + number, width * height).astype(np.uint16)
        Image.fromarray(values.reshape(height, width)).save(path)
    return root


def annotate(root: Path, out: Path) -> list[str]:
    return ["annotate", f"images={root / 'images'}", f"out={out}", *BUILTIN]


def plan(root: Path, out: Path) -> list[str]:
    return ["plan", f"images={root / 'images'}", "probe=2", *BUILTIN]


def predict(root: Path, out: Path) -> list[str]:
    run = write_run(out.parent / "run")
    return ["predict", f"images={root / 'images'}", f"out={out}", f"checkpoint={run}"]


def evaluate(root: Path, out: Path) -> list[str]:
    run = write_run(out.parent / "run")
    places = [f"images={root / 'images'}", f"masks={root / 'masks'}", "allow_missing=true"]
    return ["evaluate", f"checkpoint={run}", *places]


def train(root: Path, out: Path) -> list[str]:
    # What the data are is said before they are refused.
    return [
        *("train", f"data.root={root}", "data.kind=folder", f"out={out}", "network.name=builtin"),
        *("method=supervised", "data.validation=none", "train.patience=1"),
    ]


def tune(root: Path, out: Path) -> list[str]:
    return ["tune", *train(root, out)[1:-3], "method=segray", "data.labelled=2"]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("words", "key"),
    [
        *((words, "image.range") for words in (annotate, plan, predict, evaluate)),
        *((words, "data.image.range") for words in (train, tune)),
    ],
)
def test_values_of_16_bits_are_said_before_a_command_works(
    words: Callable[[Path, Path], list[str]], key: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words(deep_set(tmp_path), tmp_path / "out"))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("values ")]
    assert len(lines) == 1
    assert f"{key}=auto makes " in lines[0]
    assert lines[0].startswith("values      uint16, 1")


@pytest.mark.usefixtures("in_this_process")
def test_values_of_8_bits_are_said_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(annotate(folder_set(tmp_path / "set"), tmp_path / "out"))
    assert "values      8 bits, taken as they are, in 5 of 5 images looked at\n" in capfd.readouterr().err
