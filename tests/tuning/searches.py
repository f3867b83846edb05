"""Searches for tests: configurations, and trials that were never trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segray.pipelines.config.commands.tune import TuneConfig
from segray.pipelines.config.loading import load
from segray.tuning.folder import SearchFolder
from segray.tuning.records import Run, State, Trial
from tests.pipelines.training.runs import SHORT

EPOCHS = 9
SPACE = (
    "space.data.labelled=grid(2,4)",
    "space.pseudo.tau=uniform(0.4,1)",
    "space.pseudo.epsilon=uniform(0,0.3)",
)


def config(out: Path, *overrides: str) -> TuneConfig:
    """A search of two splits that is not meant to be run; later overrides win."""
    places = [f"out={out}", f"data.root={out.parent / 'book'}"]
    rest = [override for override in SHORT if not override.startswith("data.labelled")]
    return load(TuneConfig, None, [*rest, *places, *SPACE, f"train.epochs={EPOCHS}", *overrides])


def run(miou: float, *, epochs: int = EPOCHS, seed: int = 0, labelled: int = 2) -> Run:
    """A training that rose evenly to an mIoU, or was stopped after so many epochs."""
    curve = [(float(epoch), miou * epoch / epochs) for epoch in range(1, epochs + 1)]
    return Run(seed, miou, miou, float(epochs), EPOCHS, curve, labelled, zero_shot=0.3, seconds=2.0)


def trial(
    number: int, miou: float | None, state: State = "done", *, split: str = "2", tau: float = 0.7, **more: Any
) -> Trial:
    """A trial of a split."""
    values = {"pseudo.tau": str(tau), "pseudo.epsilon": str(round(0.01 * number, 4))}
    made = Trial(split, number, values, f"{split}-{number:03}", state, **more)
    if miou is not None:
        made.runs = [run(miou, epochs=EPOCHS if state == "done" else 3, labelled=int(split))]
    return made


def search_folder(search: TuneConfig, *trials: Trial) -> SearchFolder:
    """A search's folder with these trials in it."""
    folder = SearchFolder(search)
    folder.begin()
    for each in trials:
        folder.save(each)
    return folder
