"""From a configuration to the images of a training run: labelled, unlabelled and validation, all checked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from segray.pipelines.config.commands.train import NONE, DataConfig
from segray.pipelines.corrections.correction import Correction
from segray.pipelines.corrections.log import CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.data.coco import open_coco
from segray.pipelines.training.data.corrected import corrected_images, together
from segray.pipelines.training.data.cvat import open_cvat
from segray.pipelines.training.data.folder import open_folder
from segray.pipelines.training.data.label_join import (
    check_sizes,
    join_lines,
    join_parts,
    open_label_set,
    readable,
)
from segray.pipelines.training.data.labelme import open_labelme
from segray.pipelines.training.data.samples import DataSet, Sample, TrainingData
from segray.pipelines.training.data.split_sampling import amount, balanced_sample, is_amount
from segray.pipelines.training.data.splits import is_split, read_split
from segray.pipelines.training.data.unlabelled import list_unlabelled, without_copies
from segray.pipelines.training.data.voc import open_voc
from segray.pipelines.training.data.yolo import open_yolo

READERS: dict[str, Callable[[DataConfig], DataSet]] = {
    "folder": open_folder,
    "picture_book": open_folder,
    "voc": open_voc,
    "coco": open_coco,
    "labelme": open_labelme,
    "cvat": open_cvat,
    "yolo": open_yolo,
}
"""Opens each kind of data set."""

DRAWN = frozenset({"coco", "labelme", "cvat", "yolo"})
"""Kinds whose masks are drawn from outlines."""

_READ_BY = {
    "images": ("folder", "voc", "coco", "cvat"),
    "masks": ("folder",),
    "annotations": ("coco", "cvat", "yolo"),
    "val_annotations": ("coco",),
    "val_images": ("coco",),
}
"""The kinds that read a key which says where something is; picture_book is a folder."""

HELD_OUT = "1/5"
"""Share of the images with masks that is used for validation if the data set has no validation part."""

NO_VALIDATION = NONE
"""Value of `data.validation` that trains without validation images."""

GOOD_ONLY = NONE
"""Value of `data.labelled` that takes no mask, and learns from the images that corrections mark good."""

_LABELLED, _VALIDATION = 0, 1
_log = logging.getLogger(__name__)


def plain_ids(config: DataConfig) -> bool:
    """Whether the masks hold the ids of the classes as they are, 0 among them."""
    return (
        config.kind not in DRAWN and config.colors is None and not config.binary and config.ignore_index != 0
    )


def open_data(config: DataConfig, seed: int, corrections: Sequence[Correction] | None = None) -> TrainingData:
    """Find the images, sample the splits, and check every mask and label that is used.

    Args:
        config: the data set, its splits and its label set.
        seed: of the samples.
        corrections: of the label set; None: all that it has.

    Raises:
        UserError: something is wrong with the configuration, masks, split files or label set; all bad masks
            are in one message, one per line.
        DamagedPartError: the label set is damaged.
    """
    check_keys(config)
    data = READERS[config.kind](config)
    amounts = is_amount(config.labelled) or config.labelled == GOOD_ONLY
    listed = () if amounts else read_split(config.labelled, data, "data.labelled")
    validation = _validation(config, data, listed, seed)
    labelled = _labelled(config, data, listed, validation, seed)
    _check_disjoint(labelled, validation)
    data.check([*labelled, *validation])
    unlabelled = _unlabelled(config, data, labelled, validation)
    matched: tuple[str, ...] = ()
    label_set = None
    if config.labels is not None:
        labels = open_label_set(config.labels, data.space.classes)
        label_set = labels.fingerprint
        if unlabelled or validation:
            unlabelled, validation = join_parts(config, unlabelled, validation, labels)
            if has_source(config):
                unlabelled = without_copies(unlabelled, validation)
            check_sizes([*unlabelled, *validation], labels)
            unlabelled = readable(unlabelled, labels)
            matched = join_lines(config, unlabelled, validation)
    opened = TrainingData(
        data.space,
        _read_as(data.ready(labelled), config),
        _read_as(unlabelled, config),
        _read_as(data.ready(validation), config),
        data.pixels(labelled),
        data.pixels(validation),
        tuple(data.left_out),
        matched,
        config.unlabelled if has_source(config) else None,
        label_set,
    )
    corrected = opened if config.labels is None else _with_corrections(opened, config.labels, corrections)
    if not corrected.labelled:
        place = (
            f"data.labels={storage.display(config.labels)}" if config.labels else "data.labels, which is null"
        )
        raise UserError(
            f"data.labelled={GOOD_ONLY}: no training image is marked good in {place}; "
            "mark some (`segray serve`), or give masks"
        )
    return corrected


def _with_corrections(
    data: TrainingData, labels: str, corrections: Sequence[Correction] | None
) -> TrainingData:
    """The data with the images that corrections call good as labelled ones besides `data.labelled`."""
    used = CorrectionLog(labels).read() if corrections is None else corrections
    if not used:
        return data
    taken = {sample.image_id for sample in data.labelled}
    candidates = (sample for sample in data.unlabelled if sample.image_id not in taken)
    corrected = corrected_images(candidates, labels, used, data.space.classes)
    good = {sample.image_id: sample for sample in corrected.good}
    return replace(
        data,
        labelled=(*data.labelled, *corrected.good),
        # With their masks, as a calibrated label set may show others.
        unlabelled=tuple(good.get(sample.image_id, sample) for sample in data.unlabelled),
        labelled_pixels=together(data.labelled_pixels, corrected.pixels),
        corrections=tuple(used),
        corrected=corrected.line(labels),
    )


def has_source(config: DataConfig) -> bool:
    """Whether the unlabelled images are not those of the data set, but of a source of their own."""
    return config.unlabelled is not None and not is_split(config.unlabelled, config.root)


def check_keys(config: DataConfig) -> None:
    """Refuse keys that a data set of this kind would not read.

    Raises:
        UserError: such a key is set.
    """
    kind = "folder" if config.kind == "picture_book" else config.kind
    unread = next((k for k, kinds in _READ_BY.items() if getattr(config, k) and kind not in kinds), None)
    if unread is not None:
        raise UserError(f"data.{unread}: only for data.kind={', '.join(_READ_BY[unread])}, not {config.kind}")
    keys = {"binary": config.binary, "colors": config.colors, "mask_suffix": config.mask_suffix}
    set_key = next((key for key, value in keys.items() if value is not None), None)
    if set_key is not None and config.kind in DRAWN:
        raise UserError(
            f"data.{set_key}: only for masks in files; those of {config.kind} are drawn from outlines"
        )


def _read_as(samples: Sequence[Sample], config: DataConfig) -> tuple[Sample, ...]:
    rules = config.image.decoding()
    # One object for all samples of a source: there may be millions.
    options = {read: replace(read, **rules) for read in {sample.read for sample in samples}}
    return tuple(
        sample if options[sample.read] == sample.read else replace(sample, read=options[sample.read])
        for sample in samples
    )


def _validation(config: DataConfig, data: DataSet, reserved: Sequence[Sample], seed: int) -> list[Sample]:
    """The images of `data.validation`, else the data set's own part, else a sample without `reserved`."""
    split = config.validation
    if split == NO_VALIDATION:
        return []
    if split is None and data.val is not None:
        return [data.samples[i] for i in data.val]
    if split is not None and (split == "all" or not is_amount(split)):
        return list(read_split(split, data, "data.validation"))
    if split is None:
        where = storage.display(config.root)
        _log.info("%s has no validation part: %s of the images with masks are held out", where, HELD_OUT)
    candidates = _candidates(data, reserved)
    return _sampled(split or HELD_OUT, data, candidates, [seed, _VALIDATION], "data.validation")


def _labelled(
    config: DataConfig, data: DataSet, listed: Sequence[Sample], validation: Sequence[Sample], seed: int
) -> list[Sample]:
    if listed or config.labelled == GOOD_ONLY:
        return list(listed)
    candidates = _candidates(data, validation)
    if not candidates:
        hint = (
            "" if config.validation == NO_VALIDATION else f"; data.validation={NO_VALIDATION} holds none out"
        )
        raise UserError(f"data.labelled: no training image with a mask is left to learn from{hint}")
    return _sampled(config.labelled, data, candidates, [seed, _LABELLED], "data.labelled")


def _candidates(data: DataSet, excluded: Sequence[Sample]) -> list[Sample]:
    ids = {sample.image_id for sample in excluded}
    return [data.samples[i] for i in data.candidates if i not in ids]


def _sampled(
    text: str, data: DataSet, candidates: Sequence[Sample], seed: Sequence[int], key: str
) -> list[Sample]:
    count = amount(text, len(candidates), key)
    if count == len(candidates):
        return list(candidates)
    return [candidates[i] for i in balanced_sample(data.contents(candidates), count, seed)]


def _check_disjoint(labelled: Sequence[Sample], validation: Sequence[Sample]) -> None:
    both = sorted({sample.image_id for sample in labelled} & {sample.image_id for sample in validation})
    if both:
        raise UserError(
            f"data.labelled and data.validation share {len(both)} images, such as {both[0]}; "
            "training images cannot be validation images"
        )


def _unlabelled(
    config: DataConfig, data: DataSet, labelled: Sequence[Sample], validation: Sequence[Sample]
) -> Sequence[Sample]:
    if has_source(config):
        return list_unlabelled(config, [*labelled, *validation])
    excluded = {sample.image_id for sample in validation}
    if config.unlabelled is None:
        excluded |= {sample.image_id for sample in labelled}
        return [data.samples[i] for i in data.train if i not in excluded]
    samples = read_split(config.unlabelled, data, "data.unlabelled")
    shared = sum(sample.image_id in excluded for sample in samples)
    if shared:
        _log.warning("%d unlabelled images are validation images too; their masks are not used", shared)
    return samples
