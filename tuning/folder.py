"""The folder of a search: its configuration, and each trial's record in `trials/SPLIT-NUMBER/trial.json`.

The records are the complete state of a search: a trial that is finished there is never trained again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import chain, count

from pydantic import TypeAdapter

from segray.models.plain_yaml import MAX_BYTES, read_plain_yaml
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import TuneConfig, dimensions_of, splits_of, train_config
from segray.pipelines.config.loading import dump_redacted, identity, with_values
from segray.pipelines.config.previous import current_tree
from segray.pipelines.config.search_space import SPLIT, THRESHOLD, parse_dimension
from segray.pipelines.engine.provenance import other_configuration
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data_record import (
    PLACE,
    data_differences,
    data_record,
    is_place,
    store_record,
    stored_record,
    without_places,
)
from segray.pipelines.training.run_folder import BEST, CHECKPOINTS, CONFIG, LAST, check_folder
from segray.tuning.records import Trial
from segray.tuning.space import as_number, written_value

TRIALS, LABELS, RECORD = "trials", "labels", "trial.json"
_TRIAL = TypeAdapter(Trial)
_MAX_BYTES = 1 << 22
"""Of a trial's record, which takes 50 bytes per validation; a longer one is left out."""


class SearchFolder:
    """`out` of a search."""

    def __init__(self, config: TuneConfig) -> None:
        self.config, self.out = config, config.out
        self._trials: dict[str, Trial] = {}

    def check(self) -> None:
        """Refuse a folder of something else, or of a search with another configuration.

        The data may be in another place than before; `check_data` compares it.

        Raises:
            UserError: with the difference.
        """
        # A search of an older segray has no record of its data.
        values = _without_places if stored_record(self.out) else dict

        def read(tree: object) -> Mapping[str, object]:
            return values(_identity(TuneConfig.model_validate(current_tree(tree))))

        check_folder(self.out, "search", values(_identity(self.config)), read)

    def check_data(self, data: Mapping[str, TrainingData]) -> None:
        """Refuse other data than the search began with, wherever it is now.

        Args:
            data: of each split.

        Raises:
            UserError: with the difference.
        """
        moved = self._moved()
        for stored, record in (stored_record(self.out) or {}).items():
            split = moved.get(stored, stored)
            if split not in data or not isinstance(record, Mapping):
                continue
            if changed := data_differences(record, data_record(data[split])):
                raise UserError(other_configuration(self.out, changed, "give another out=DIR"))

    def begin(self, data: Mapping[str, TrainingData] | None = None) -> None:
        """Write the configuration and the record of the data, and read the trials of earlier commands.

        Args:
            data: of each split; None: keep the record.
        """
        self._rename(self._moved())
        if data and stored_record(self.out) is None:
            store_record(self.out, {split: data_record(opened) for split, opened in data.items()})
        storage.write_atomic(storage.join(self.out, CONFIG), dump_redacted(self.config).encode())
        known = _allowed_values(self.config)
        read = [trial for trial in read_trials(self.out) if trial.split in splits_of(self.config)]
        self._trials = {trial.file: trial for trial in read if _fits(trial, known)}

    def _moved(self) -> dict[str, str]:
        """Where split files are now, by where they were in the last command: the n-th is the n-th."""
        try:
            tree = read_plain_yaml(storage.read_bytes(storage.join(self.out, CONFIG), MAX_BYTES))
            before = splits_of(TuneConfig.model_validate(current_tree(tree)))
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
        pairs = zip(before, splits_of(self.config), strict=False)
        return {old: new for old, new in pairs if old != new and is_place(old) and is_place(new)}

    def _rename(self, moved: Mapping[str, str]) -> None:
        """Give the trials and the record of the data the places where split files are now."""
        for trial in read_trials(self.out) if moved else ():
            if trial.split in moved:
                trial.split = moved[trial.split]
                self.save(trial)
        record = stored_record(self.out)
        if moved and record:
            store_record(self.out, {moved.get(split, split): part for split, part in record.items()})

    def names(self) -> dict[str, str]:
        """The name of each split in file names: that of its trials, which began before a file was moved."""
        begun = {trial.split: trial.file.rpartition("-")[0] for trial in self.trials()}
        return split_names(splits_of(self.config), begun)

    def save(self, trial: Trial) -> None:
        """Write a trial's record."""
        self._trials[trial.file] = trial
        record = json.dumps(asdict(trial), indent=1)
        storage.write_atomic(self._uri(trial, RECORD), f"{record}\n".encode())

    def finish(self, trial: Trial) -> None:
        """Write the record of a trial that has ended; its split keeps no weights but those of the best."""
        self.save(trial)
        if not self.config.search.keep_weights:
            self.drop_weights(trial.split)

    def trials(self, split: str | None = None) -> list[Trial]:
        """All trials, or those of a split, by number."""
        chosen = [trial for trial in self._trials.values() if split in (None, trial.split)]
        return sorted(chosen, key=lambda trial: trial.number)

    def baseline(self, split: str) -> Trial | None:
        """Trial 0 of a split, if it is done."""
        done = (trial for trial in self.trials(split) if trial.number == 0 and trial.state == "done")
        return next(done, None)

    def finalists(self, split: str) -> list[Trial]:
        """The trials of a split that may become its best: the best on the search's seeds, and the baseline.

        Best first; all are done.
        """
        done = [trial for trial in self.trials(split) if trial.state == "done"]
        ranked = sorted(done, key=lambda trial: -(trial.score or 0.0))
        count = max(1, self._finalist_count)
        return ranked[:count] + [trial for trial in ranked[count:] if trial.number == 0]

    def best(self, split: str) -> Trial | None:
        """The finalist with the best mean over all seeds, of those with the most seeds; None without one."""
        finalists = self.finalists(split)
        most = max((len(trial.finals) for trial in finalists), default=0)
        complete = [trial for trial in finalists if len(trial.finals) == most]
        return max(complete, key=lambda trial: trial.overall or 0.0, default=None)

    def run_config(self, trial: Trial, seed: int) -> TrainConfig:
        """The configuration of one training of a trial; its folder is under the trial's.

        A trial that calibrates reads the label set that all of its split and seed share.
        """
        config = configured(self.config, trial)
        if config.data.calibrate:
            shared = {"labels": self.calibrated_labels(trial.split, seed), "calibrate": False}
            config = config.model_copy(update={"data": config.data.model_copy(update=shared)})
        return config.model_copy(update={"out": self._uri(trial, f"seed-{seed}"), "seed": seed})

    def calibrated_labels(self, split: str, seed: int) -> str:
        """Where the search keeps the label set corrected by the masks that a split and a seed choose."""
        return storage.join(self.out, LABELS, self._calibrated(split, seed))

    def calibrated_split(self, split: str, seed: int) -> str:
        """The file that names the images with these masks."""
        return storage.join(self.out, LABELS, f"{self._calibrated(split, seed)}.txt")

    def _calibrated(self, split: str, seed: int) -> str:
        return f"calibrated-{self.names()[split]}-seed-{seed}"

    def drop_weights(self, split: str) -> None:
        """Delete the checkpoints of a split's finished trials that cannot become its best any more."""
        finalists, wanted = self.finalists(split), self.config.search.final_seeds
        undecided = self._finalist_count and any(len(trial.finals) < wanted for trial in finalists)
        candidates = finalists if undecided else [self.best(split)]
        for trial in self.trials(split):
            if trial.finished and trial not in candidates:
                for run in [*trial.runs, *trial.finals, *trial.held_out]:
                    _drop(self._uri(trial, f"seed-{run.seed}"))

    @property
    def _finalist_count(self) -> int:
        return self.config.search.finalists if self.config.search.final_seeds else 0

    def _uri(self, trial: Trial, name: str) -> str:
        return storage.join(self.out, TRIALS, trial.file, name)


def configured(config: TuneConfig, trial: Trial) -> TrainConfig:
    """The training configuration with a trial's split and values in it."""
    values = {key: value for key, value in trial.values.items() if key != THRESHOLD}
    changed = with_values(train_config(config), {**values, SPLIT: trial.split})
    # The baseline reads the label set of the configuration itself.
    if THRESHOLD not in trial.values or trial.number == 0:
        return changed
    labels = threshold_labels(config.out, trial.values[THRESHOLD])
    return changed.model_copy(update={"data": changed.data.model_copy(update={"labels": labels})})


def threshold_labels(out: str, threshold: str) -> str:
    """Where a search keeps the label set of a threshold."""
    return storage.join(out, LABELS, f"threshold-{threshold}")


def read_trials(out: str) -> list[Trial]:
    """The trials under a search's folder, without records that were cut short or have other types."""
    trials = []
    for name in storage.list_names(storage.join(out, TRIALS)):
        with suppress(OSError, ValueError):
            uri = storage.join(out, TRIALS, name, RECORD)
            trial = _TRIAL.validate_json(storage.read_bytes(uri, _MAX_BYTES))
            # Its name becomes a path.
            if trial.file == name:
                trials.append(trial)
    return trials


def _allowed_values(config: TuneConfig) -> dict[str, set[str]]:
    """The values that are no number of each searched key: those of its list, and the configuration's."""
    base = identity(train_config(config))
    return {
        dimension.key: {*dimension.values, written_value(base.get(dimension.key))}
        for dimension in dimensions_of(config)
    }


def _fits(trial: Trial, known: Mapping[str, set[str]]) -> bool:
    """Whether a record sets what is searched and nothing else, and has the runs of its outcome.

    The folder may have been received.
    """
    return (bool(trial.runs) or trial.state != "done") and all(
        key in known and (value in known[key] or as_number(value) is not None)
        for key, value in trial.values.items()
    )


def split_names(splits: Sequence[str], begun: Mapping[str, str] | None = None) -> dict[str, str]:
    """A distinct name for each split that is valid in file names: `1-16` for 1/16.

    Args:
        splits: of a search.
        begun: the names that some of them have already.
    """
    names = dict(begun or {})
    for split in splits:
        if split not in names:
            stem = split.rpartition("/")[2] if "." in split else split
            name = (re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-") or "split")[:40]
            choices = chain([name], (f"{name}-{number}" for number in count(len(names))))
            names[split] = next(choice for choice in choices if choice not in names.values())
    return {split: names[split] for split in splits}


def _identity(config: TuneConfig) -> dict[str, object]:
    """As `identity`, with one key per searched key, so that a difference names the key."""
    values = {key: value for key, value in identity(config).items() if key != "space"}
    return values | {f"space.{key}": text for key, text in config.space.items() if text is not None}


def _without_places(values: Mapping[str, object]) -> dict[str, object]:
    """`without_places`, of values of `_identity`, which list the splits."""
    settings, key = without_places(values), f"space.{SPLIT}"
    if key in settings:
        splits = parse_dimension(TrainConfig, SPLIT, str(settings[key])).values
        settings[key] = ",".join(PLACE if is_place(split) else split for split in splits)
    return settings


def _drop(folder: str) -> None:
    for name in (CHECKPOINTS, LAST, BEST):
        with suppress(OSError):
            storage.delete_tree(storage.join(folder, name))
