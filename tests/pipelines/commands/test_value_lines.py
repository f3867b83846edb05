"""Each command that reads images says what values they have, before it works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.pipelines.cli import main
from segray.pipelines.errors import UserError
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
    return [
        *("train", f"data.root={root}", "data.kind=folder", f"out={out}", "network.name=builtin"),
        *("method=supervised", "data.labelled=2"),
    ]


def tune(root: Path, out: Path) -> list[str]:
    return ["tune", *train(root, out)[1:], "method=segray"]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("words", "works", "key"),
    [
        (annotate, "pipelines.commands.annotate.label_pending", "image.range"),
        (plan, "pipelines.commands.plan.probe", "image.range"),
        (predict, "pipelines.commands.predict._execute", "image.range"),
        (evaluate, "pipelines.commands.evaluate._count", "image.range"),
        (train, "pipelines.commands.train.check", "data.image.range"),
        (tune, "tuning.search.check", "data.image.range"),
    ],
)
def test_values_of_16_bits_are_said_before_a_command_works(
    words: Callable[[Path, Path], list[str]],
    works: str,
    key: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(*_: object, **__: object) -> None:
        raise UserError("works now")

    monkeypatch.setattr(f"segray.{works}", work)
    with pytest.raises(SystemExit):
        main(words(deep_set(tmp_path), tmp_path / "out"))
    (line, last) = capfd.readouterr().err.splitlines()[-2:]
    assert line.startswith("values      uint16, 1")
    assert f"{key}=auto makes " in line
    assert last == "segray: works now"


@pytest.mark.usefixtures("in_this_process")
def test_values_of_8_bits_are_said_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(annotate(folder_set(tmp_path / "set"), tmp_path / "out"))
    assert (
        "values      decode to 8 bits, taken as they are, in 5 of 5 images looked at\n"
        in capfd.readouterr().err
    )
