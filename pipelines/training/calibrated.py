"""`data.calibrate`: the label set that training reads, corrected by the labelled split of the run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import ignore_index_of
from segray.pipelines.annotation.relabelling import clip_of, known_weights
from segray.pipelines.calibration.examples import ReadMask
from segray.pipelines.config.commands.calibrate import CalibrateConfig
from segray.pipelines.config.commands.train import DataConfig, TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.data.class_names import class_id_table
from segray.pipelines.training.data.datasets import read_mask
from segray.pipelines.training.data.label_join import LabelSet, join_labelled, open_label_set
from segray.pipelines.training.data.samples import Sample, TrainingData

if TYPE_CHECKING:  # takes seconds to import
    from segray.pipelines.calibration.label_set import CalibratedSet

CALIBRATED = "calibrated"
"""Folder of the calibrated label set in a training run."""

_log = logging.getLogger(__name__)


def labels_of(config: TrainConfig) -> str | None:
    """The label set that a run trains on; None without one."""
    return storage.join(config.out, CALIBRATED) if config.data.calibrate else config.data.labels


def check_calibration(config: DataConfig, data: TrainingData) -> None:
    """Refuse a label set that cannot be calibrated, and masks that cannot teach.

    Raises:
        UserError: the label set has no embeddings, names pixels, or has too many classes for the masks; its
            CLIP's weights are a file that `data.clip_weights` does not name; or the labelled masks hold fewer
            than two classes.
    """
    from segray.models.weights import resolve
    from segray.pipelines.calibration.fit import check_size
    from segray.pipelines.calibration.label_set import StoredNames

    labels = config.labels or ""
    held = [
        name for name, count in zip(data.space.classes, data.labelled_pixels.pixels, strict=True) if count
    ]
    if len(held) < 2:
        raise UserError(
            f"data.calibrate: the labelled masks hold {held[0] if held else 'no class'} alone; it needs two "
            "classes: label more images, or set data.calibrate=false"
        )
    try:
        stored = StoredNames.of(labels)
        check_size(len(data.labelled), len(stored.classes))
        clip = clip_of(stored.record, labels)
        known_weights(clip, labels, config.clip_weights)
        if config.clip_weights is not None:
            resolve(config.clip_weights, sha256=clip["sha256"])
    except ValueError as error:
        raise UserError(f"data.clip_weights: {error}") from error
    except UserError as error:
        store, advice = LabelStore(labels), "data.calibrate=false trains on it as it is"
        if store.parts() and "calibration" not in store.provenance:
            advice += ", and pseudo.forward=true allows for its mistakes"
        raise UserError(f"data.calibrate: {error}; {advice}") from None


def calibrate_labels(config: TrainConfig, data: TrainingData) -> None:
    """Write the calibrated label set of a run, or what is missing of it.

    Raises:
        UserError: see `calibrate_into`.
    """
    from segray.pipelines.calibration.label_set import report_lines

    split = storage.join(config.out, "splits", "labelled.txt")
    for line in report_lines(calibrate_into(config, data, storage.join(config.out, CALIBRATED), split)):
        _log.info("%s", line)


def calibrate_into(config: TrainConfig, data: TrainingData, out: str, split: str) -> CalibratedSet:
    """Write `data.labels`, corrected by the labelled images, or what is missing of it.

    Validation images teach nothing.

    Args:
        config: a run.
        data: what it trains on.
        out: folder or URI of the new label set.
        split: the file that names the labelled images, for the record.

    Raises:
        UserError: no labelled image has a label, its masks hold fewer than two classes, or the label set has
            no embeddings.
    """
    from segray.pipelines.calibration.description import FILE, to_json
    from segray.pipelines.calibration.label_set import StoredNames, calibrate

    labels = config.data.labels or ""
    stored = StoredNames.of(labels)
    calibration = CalibrateConfig(labels=labels, masks=config.data.root, split=split, out=out)
    masks = _masks(config, data, stored.classes)
    candidates = stored.candidates(calibration.candidates, config.data.clip_weights)
    calibrated = calibrate(
        stored,
        masks,
        calibration,
        calibration.out,
        candidates=candidates,
        alpha=calibration.alpha,
        leave_out=[sample.stored_id for sample in data.validation],
    )
    calibrated.relabelling.write({FILE: to_json(calibrated.description())})
    return calibrated


def _masks(config: TrainConfig, data: TrainingData, stored: tuple[str, ...]) -> dict[str, ReadMask]:
    """The masks of the labelled images, with the label set's ids, by their image_id there."""
    root = config.data.labels or ""
    labels = open_label_set(root, data.space.classes)
    unknown = ignore_index_of(len(stored))
    table = class_id_table(stored, data.space.classes, unknown, storage.display(root))
    known = np.flatnonzero(table[: len(stored)] != ignore_index_of(len(data.space.classes)))
    ids = np.full(np.iinfo(table.dtype).max + 1, unknown, label_dtype(unknown))
    ids[table[known]] = known
    samples = labelled_with_labels(config, data, labels, "data.calibrate")
    return {sample.stored_id: _reader(sample, ids) for sample in samples}


def labelled_with_labels(config: TrainConfig, data: TrainingData, labels: LabelSet, key: str) -> list[Sample]:
    """The labelled images that have a label in the label set, with their ids there.

    Raises:
        UserError: there is none; the message names `key`, which needs one.
    """
    joined = join_labelled(config.data, data.labelled, data.unlabelled or data.validation, labels)
    found = [sample for sample in joined if sample.label_id in labels.ok and sample.label_id]
    if not found:
        where = f"data.labels={storage.display(labels.root)}"
        raise UserError(f"{key}: no labelled image has a label in {where}; annotate them too")
    return found


def _reader(sample: Sample, ids: LabelMap) -> ReadMask:
    def read(shape: tuple[int, int]) -> LabelMap:
        mask = read_mask(sample)
        if mask.shape != shape:
            raise UserError(
                f"mask {sample.shown_mask} is {mask.shape[1]}x{mask.shape[0]} pixels, the label of its image "
                f"{shape[1]}x{shape[0]}; both must have the same size"
            )
        return ids[mask]

    return read
