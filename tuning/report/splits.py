"""The result of each split of a search, for its tables and its page."""

from __future__ import annotations

from dataclasses import dataclass

from segray.pipelines.config.commands.tune import splits_of
from segray.tuning.folder import SearchFolder, split_names
from segray.tuning.records import Trial


@dataclass(frozen=True)
class SplitResult:
    """The trials of a split, and what is known of them.

    Attributes:
        split: the value of `data.labelled`.
        config_file: name of the file with the best trial's configuration.
        colour: CSS variable of its plots, and name in `reporting.charts.COLOURS`.
        trials: by number.
        best: None while no trial is done.
        baseline: trial 0, if it is done.
    """

    split: str
    config_file: str
    colour: str
    trials: list[Trial]
    best: Trial | None
    baseline: Trial | None

    @property
    def labelled(self) -> int | None:
        """Number of images with masks; None while nothing was trained."""
        return next((run.labelled for trial in self.trials for run in trial.runs), None)

    @property
    def miou(self) -> float | None:
        """Mean mIoU of the best trial over the search's seeds and the further seeds."""
        return self.best.overall if self.best else None

    @property
    def baseline_miou(self) -> float | None:
        """The same of the baseline."""
        return self.baseline.overall if self.baseline else None

    @property
    def unseen(self) -> float | None:
        """Mean mIoU of the best trial over the unseen seeds."""
        return self.best.unseen if self.best else None

    @property
    def baseline_unseen(self) -> float | None:
        """The same of the baseline."""
        return self.baseline.unseen if self.baseline else None


def split_results(folder: SearchFolder) -> list[SplitResult]:
    """The result of each split, in the order of the search space."""
    names = split_names(splits_of(folder.config))
    return [
        SplitResult(
            split,
            f"best-{name}.yaml",
            f"series-{index % 6}",
            folder.trials(split),
            folder.best(split),
            folder.baseline(split),
        )
        for index, (split, name) in enumerate(names.items())
    ]


def trials_in_order(folder: SearchFolder) -> list[Trial]:
    """All trials, split by split."""
    return [trial for split in splits_of(folder.config) for trial in folder.trials(split)]
