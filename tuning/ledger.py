"""What a search has on disk: each trial as `trials/SPLIT-NUMBER/trial.json`, and the configuration.

These files are the only truth of a search: what is finished there is never trained again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import TuneConfig, train_config
from segray.pipelines.config.loading import dump, identity, with_values
from segray.pipelines.config.previous import current_tree
from segray.pipelines.config.search_space import SPLIT, THRESHOLD
from segray.pipelines.io import storage
from segray.pipelines.training.run_folder import BEST, CHECKPOINTS, CONFIG, LAST, check_folder
from segray.tuning.space import Past, Values

TRIALS, LABELS, RECORD = "trials", "labels", "trial.json"

State = Literal["running", "done", "stopped", "diverged", "crashed"]


@dataclass(frozen=True)
class Run:
    """One training of a trial, with one seed.

    Attributes:
        miou: of the last epoch on the validation images.
        best: the greatest of any epoch.
        epoch: how far it came, of `epochs`.
        curve: (epoch, mIoU) of each validation.
        zero_shot: mIoU of the labels that it learnt from.
        labelled: images whose masks it learnt from.
    """

    seed: int
    miou: float
    best: float
    epoch: float
    epochs: int
    curve: list[tuple[float, float]]
    labelled: int
    zero_shot: float | None = None
    seconds: float = 0.0


@dataclass
class Trial:
    """One point of the space in one split.

    Attributes:
        split: the value of `data.labelled`.
        number: 0 is the configuration as it stands.
        values: of the searched keys, as one writes them.
        runs: one a seed of the search.
        finals: one a further seed, of the finalists for the best.
        held_out: one a seed that the search has not seen.
        reason: why it stopped, diverged or crashed.
        file: its folder under `trials/`.
    """

    split: str
    number: int
    values: Values
    file: str
    state: State = "running"
    runs: list[Run] = field(default_factory=list)
    finals: list[Run] = field(default_factory=list)
    held_out: list[Run] = field(default_factory=list)
    reason: str = ""

    @property
    def score(self) -> float | None:
        """Mean mIoU over the search's seeds; of a trial that was stopped, what it had reached."""
        return mean([run.miou for run in self.runs])

    @property
    def overall(self) -> float | None:
        """Mean mIoU over the search's seeds and the further ones."""
        return mean([run.miou for run in [*self.runs, *self.finals]])

    @property
    def finished(self) -> bool:
        """Whether its outcome is known; a crash is no outcome: it is tried again."""
        return self.state in ("done", "stopped", "diverged")

    def past(self) -> Past:
        """As a proposer sees it: a loss that is no number counts as the worst score."""
        curve = self.runs[0].curve if self.runs else []
        if self.state == "diverged":
            return Past(self.values, 0.0, curve, "done")
        return Past(self.values, self.score, curve, "failed" if self.state == "crashed" else self.state)


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


class Ledger:
    """`out` of a search."""

    def __init__(self, config: TuneConfig) -> None:
        self.config, self.out = config, config.out
        self._trials: dict[str, Trial] = {}

    def check(self) -> None:
        """Refuse a folder of something else, or of a search with another configuration.

        Raises:
            UserError: with the difference.
        """
        check_folder(
            self.out,
            "search",
            _identity(self.config),
            lambda tree: _identity(TuneConfig.model_validate(current_tree(tree))),
        )

    def begin(self) -> None:
        """Write the configuration and read the trials of earlier commands."""
        storage.write_atomic(storage.join(self.out, CONFIG), dump(self.config).encode())
        self._trials = {trial.file: trial for trial in read_trials(self.out)}

    def save(self, trial: Trial) -> None:
        """Keep what is known of a trial."""
        self._trials[trial.file] = trial
        text = json.dumps(asdict(trial), indent=1)
        storage.write_atomic(self._uri(trial, RECORD), f"{text}\n".encode())

    def trials(self, split: str | None = None) -> list[Trial]:
        """All trials, or those of a split, by number."""
        chosen = [one for one in self._trials.values() if split in (None, one.split)]
        return sorted(chosen, key=lambda one: one.number)

    def finalists(self, split: str) -> list[Trial]:
        """Who may be called the best of a split: its best trials after the search's seeds, and trial 0.

        Best first; all ran to the end.
        """
        done = [one for one in self.trials(split) if one.state == "done"]
        ranked = sorted(done, key=lambda one: -(one.score or 0.0))
        count = max(1, self._finalists)
        return ranked[:count] + [one for one in ranked[count:] if one.number == 0]

    def best(self, split: str) -> Trial | None:
        """The contender with the best mean over all seeds, of those with the most; None without one."""
        chosen = self.finalists(split)
        most = max((len(one.finals) for one in chosen), default=0)
        equals = [one for one in chosen if len(one.finals) == most]
        return max(equals, key=lambda one: one.overall or 0.0, default=None)

    @property
    def _finalists(self) -> int:
        return self.config.search.finalists if self.config.search.final_seeds else 0

    def run_config(self, trial: Trial, seed: int) -> TrainConfig:
        """What one training of a trial is given; its folder is under the trial's."""
        config = configured(self.config, trial)
        return config.model_copy(update={"out": self._uri(trial, f"seed-{seed}"), "seed": seed})

    def drop_weights(self, split: str) -> None:
        """Delete the checkpoints of a split's finished trials that are not its best and cannot become it."""
        chosen, wanted = self.finalists(split), self.config.search.final_seeds
        open_still = self._finalists and any(len(one.finals) < wanted for one in chosen)
        kept = chosen if open_still else [self.best(split)]
        for trial in self.trials(split):
            if trial not in kept and trial.finished:
                for run in [*trial.runs, *trial.finals, *trial.held_out]:
                    _drop(self._uri(trial, f"seed-{run.seed}"))

    def _uri(self, trial: Trial, name: str) -> str:
        return storage.join(self.out, TRIALS, trial.file, name)


def configured(config: TuneConfig, trial: Trial) -> TrainConfig:
    """The training configuration with a trial's split and values in it."""
    values = {key: value for key, value in trial.values.items() if key != THRESHOLD}
    changed = with_values(train_config(config), {**values, SPLIT: trial.split})
    # The configuration as it stands takes the label set as it stands.
    if THRESHOLD not in trial.values or trial.number == 0:
        return changed
    labels = threshold_labels(config.out, trial.values[THRESHOLD])
    return changed.model_copy(update={"data": changed.data.model_copy(update={"labels": labels})})


def threshold_labels(out: str, threshold: str) -> str:
    """Where a search keeps the label set of a threshold."""
    return storage.join(out, LABELS, f"threshold-{threshold}")


def read_trials(out: str) -> list[Trial]:
    """The trials under a search's folder; a record that was cut is as good as none."""
    trials = []
    for name in storage.list_names(storage.join(out, TRIALS)):
        with suppress(OSError, ValueError, TypeError, KeyError):
            record = json.loads(storage.read_bytes(storage.join(out, TRIALS, name, RECORD)))
            trials.append(_trial(record))
    return trials


def split_names(splits: Sequence[str]) -> dict[str, str]:
    """A name for each split that can stand in file names: `1-16` for 1/16; unlike for unlike splits."""
    names: dict[str, str] = {}
    for split in splits:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", split.rpartition("/")[2] if "." in split else split).strip("-")
        name = (plain or "split")[:40]
        names[split] = name if name not in names.values() else f"{name}-{len(names)}"
    return names


def _identity(config: TuneConfig) -> dict[str, Any]:
    """As `identity`, each searched key a key of its own, so that a difference is told by key."""
    values = {key: value for key, value in identity(config).items() if key != "space"}
    return values | {f"space.{key}": text for key, text in config.space.items() if text is not None}


def _trial(record: dict[str, Any]) -> Trial:
    runs = {name: [_run(run) for run in record.get(name, [])] for name in ("runs", "finals", "held_out")}
    return Trial(**{**record, **runs})


def _run(record: dict[str, Any]) -> Run:
    return Run(**{**record, "curve": [(epoch, miou) for epoch, miou in record["curve"]]})


def _drop(folder: str) -> None:
    for name in (CHECKPOINTS, LAST, BEST):
        with suppress(OSError):
            storage.delete_tree(storage.join(folder, name))
