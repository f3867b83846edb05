"""The label sets that the trials of a search share: one for each threshold, and one for each calibration."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from segray.pipelines.config.commands.annotate import LabelConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import TuneConfig, dimensions_of, train_config
from segray.pipelines.config.loading import with_values
from segray.pipelines.config.search_space import SPLIT, THRESHOLD
from segray.pipelines.config.shared import OwnWeights
from segray.pipelines.engine.provenance import fingerprint, stored_section
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.printing import echo
from segray.pipelines.training.calibrated import calibrate_into
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.splits import write_split
from segray.tuning.folder import SearchFolder, threshold_labels

_CALIBRATE = "data.calibrate"
_LATER = ("pool", "unsegmented")
"""Keys of `label.` that the first label sets do not have."""


def make_thresholds(config: TuneConfig) -> None:
    """Make a label set for each value of `label.threshold`."""
    for threshold in thresholds_of(config):
        target = relabelling(config, threshold)
        with contextlib.redirect_stdout(io.StringIO()):
            from segray.pipelines.commands import relabel

            relabel.run(target)
        echo(f"label.threshold={threshold}: {storage.display(target.out)}", err=True)


def thresholds_of(config: TuneConfig) -> Sequence[str]:
    """The values of `label.threshold` that are searched."""
    return next((dimension.values for dimension in dimensions_of(config) if dimension.key == THRESHOLD), ())


def relabelling(config: TuneConfig, threshold: str) -> RelabelConfig:
    """The configuration of a label set that differs from `data.labels` in its threshold alone."""
    labels = config.data.labels or ""
    fields = LabelConfig.model_fields
    wanted = [f"label.{name}" for name in fields if name not in _LATER]
    made_with = stored_section(LabelStore(labels).provenance, "config", [*wanted, "classes"], labels)
    values = {name: made_with.get(f"label.{name}", field.default) for name, field in fields.items()}
    return RelabelConfig(
        labels=labels,
        out=threshold_labels(config.out, threshold),
        classes=made_with["classes"],
        label=LabelConfig.model_validate({**values, "threshold": float(threshold)}),
        clip=OwnWeights(weights=config.data.clip_weights),
    )


def variants_of(config: TuneConfig) -> list[TrainConfig]:
    """The training configuration with each value of `data.calibrate` that trials have.

    Raises:
        UserError: some calibrate, and another key of the labels is searched, too.
    """
    base, dimensions = train_config(config), dimensions_of(config)
    searched = chain(*(dimension.values for dimension in dimensions if dimension.key == _CALIBRATE))
    others = (with_values(base, {_CALIBRATE: value}) for value in searched)
    variants = list({variant.data.calibrate: variant for variant in (base, *others)}.values())
    for key in (dimension.key for dimension in dimensions if dimension.key != _CALIBRATE):
        of_labels = key.startswith("data.") or key == THRESHOLD
        if of_labels and any(variant.data.calibrate for variant in variants):
            raise UserError(
                f"space.{key}: not with data.calibrate (segray_v3 sets it), whose label sets are made once "
                "for each split and seed; give each value a search of its own"
            )
    return variants


class Calibrations:
    """Label sets corrected by the masks that a split and a seed choose, each made once.

    Args:
        folder: of the search.
    """

    def __init__(self, folder: SearchFolder) -> None:
        self._folder = folder
        self._made: set[str] = set()

    def make(self, split: str, config: TrainConfig, data: TrainingData) -> str:
        """Make the label set of a split and of a run's seed, or what is missing of it; its folder or URI.

        Args:
            split: the value of `data.labelled`.
            config: a run of the split that calibrates.
            data: what it trains on.

        Raises:
            UserError: see `calibrate_into`; one line, which names the split and the seed.
        """
        out = self._folder.calibrated_labels(split, config.seed)
        if out in self._made:
            return out
        listed = self._folder.calibrated_split(split, config.seed)
        which = f"{SPLIT}={split}, seed {config.seed}"
        try:
            with Waiting(f"the labels of {which} to be calibrated"):
                calibration = calibrate_into(config, data, out, listed).calibration
        except UserError as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines())
            raise UserError(f"{which}: {reason}", exit_code=error.exit_code) from error
        write_split(listed, [sample for sample in data.labelled if sample.by_hand is None])
        before, after = calibration.before.miou, calibration.choice.outcome.miou
        echo(
            f"{which}: calibrated, {before:.1%} -> {after:.1%} on its masks: {storage.display(out)}", err=True
        )
        self._made.add(out)
        return out


def with_labels(data: TrainingData, labels: str) -> TrainingData:
    """The data of a run that reads the same images' labels from another label set."""
    return replace(data, label_set=fingerprint(LabelStore(labels).provenance))
