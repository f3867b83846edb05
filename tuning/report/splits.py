"""The result of each split of a search, for its tables and its page."""

from __future__ import annotations

from dataclasses import dataclass

from segray.tuning.folder import SearchFolder
from segray.tuning.records import Trial


@dataclass(frozen=True)
class SplitResult:
    """The trials of a split, and what is known of them; a figure without trials is None.

    Attributes:
        split: the value of `data.labelled`.
        labelled: number of images with masks.
        trials: by number.
        best: None while no trial is done.
        miou: mean mIoU of the best trial over the search's seeds and the further seeds.
        default_miou: the same of the baseline.
        held_out_miou: mean mIoU of the best trial over the unseen seeds.
        held_out_default_miou: the same of the baseline.
        zero_shot: mIoU of the labels that the best trial learns from.
        config: name of the file with the best trial's configuration.
        colour: CSS variable of its plots, and name in `reporting.charts.COLOURS`.
    """

    split: str
    labelled: int | None
    trials: list[Trial]
    best: Trial | None
    miou: float | None
    default_miou: float | None
    held_out_miou: float | None
    held_out_default_miou: float | None
    zero_shot: float | None
    config: str
    colour: str


def split_results(folder: SearchFolder) -> list[SplitResult]:
    """The result of each split, in the order of the search space."""
    names = folder.names()
    return [
        _result(folder, split, f"best-{name}.yaml", f"series-{index % 6}")
        for index, (split, name) in enumerate(names.items())
    ]


def _result(folder: SearchFolder, split: str, config: str, colour: str) -> SplitResult:
    trials, best, baseline = folder.trials(split), folder.best(split), folder.baseline(split)
    return SplitResult(
        split=split,
        labelled=next((run.labelled for trial in trials for run in trial.runs), None),
        trials=trials,
        best=best,
        miou=best.overall if best else None,
        default_miou=baseline.overall if baseline else None,
        held_out_miou=best.unseen if best else None,
        held_out_default_miou=baseline.unseen if baseline else None,
        zero_shot=next((run.zero_shot for run in best.runs), None) if best else None,
        config=config,
        colour=colour,
    )
