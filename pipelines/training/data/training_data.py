"""From a configuration to a training run's images: labelled, unlabelled and validation, all checked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.data.coco import open_coco
from segray.pipelines.training.data.datasets import LabelledImages, UnlabelledImages
from segray.pipelines.training.data.folder import open_folder
from segray.pipelines.training.data.label_join import join_labels, open_label_set, readable
from segray.pipelines.training.data.samples import DataSet, Item, TrainingData
from segray.pipelines.training.data.split_sampling import amount, balanced_sample, is_amount
from segray.pipelines.training.data.splits import read_split
from segray.pipelines.training.data.voc import open_voc

__all__ = ["Item", "LabelledImages", "TrainingData", "UnlabelledImages", "open_data"]

READERS: dict[str, Callable[[DataConfig], DataSet]] = {
    "folder": open_folder,
    "picture_book": open_folder,
    "voc": open_voc,
    "coco": open_coco,
}
"""What opens each kind of data set."""

HELD_OUT = "1/5"
"""Share of the images with masks that validates where the data set has no part for it."""

_LABELLED, _VALIDATION = 0, 1
_log = logging.getLogger(__name__)


def open_data(config: DataConfig, seed: int) -> TrainingData:
    """Find the images, draw what is to be drawn, and check every mask and label that will count.

    Args:
        config: the data set, its splits and its label set.
        seed: of the draws.

    Raises:
        UserError: something is wrong with the configuration, masks, split files or label set; bad masks come
            together in one message, one line each.
        DamagedPartError: the label set is damaged.
    """
    data = READERS[config.kind](config)
    named = () if is_amount(config.labelled) else read_split(config.labelled, data, "data.labelled")
    validation = _validation(config, data, named, seed)
    labelled = _labelled(config, data, named, validation, seed)
    _check_apart(labelled, validation)
    data.check([*labelled, *validation])
    unlabelled = _unlabelled(config, data, labelled, validation)
    if config.labels is not None:
        labels = open_label_set(config.labels, data.space.classes)
        if counted := unlabelled or validation:
            joined = join_labels([*unlabelled, *validation], labels, config.root, key=counted)
            validation = joined[len(unlabelled) :]
            unlabelled = readable(joined[: len(unlabelled)], labels)
    return TrainingData(data.space, data.ready(labelled), tuple(unlabelled), data.ready(validation))


def _validation(config: DataConfig, data: DataSet, taken: Sequence[Item], seed: int) -> list[Item]:
    """The images of `data.validation`, else the data set's own part, else a draw that spares `taken`."""
    given = config.validation
    if given is None and data.val is not None:
        return [data.items[i] for i in data.val]
    if given is not None and (given == "all" or not is_amount(given)):
        return list(read_split(given, data, "data.validation"))
    if given is None:
        where = storage.display(config.root)
        _log.info("%s has no validation part: %s of the images with masks are put aside", where, HELD_OUT)
    return _drawn(given or HELD_OUT, data, _candidates(data, taken), [seed, _VALIDATION], "data.validation")


def _labelled(
    config: DataConfig, data: DataSet, named: Sequence[Item], validation: Sequence[Item], seed: int
) -> list[Item]:
    if named:
        return list(named)
    candidates = _candidates(data, validation)
    if not candidates:
        raise UserError("data.labelled: no training image with a mask is left to learn from")
    return _drawn(config.labelled, data, candidates, [seed, _LABELLED], "data.labelled")


def _candidates(data: DataSet, without: Sequence[Item]) -> list[Item]:
    outside = {item.image_id for item in without}
    return [data.items[i] for i in data.candidates if i not in outside]


def _drawn(
    given: str, data: DataSet, candidates: Sequence[Item], seed: Sequence[int], key: str
) -> list[Item]:
    wanted = amount(given, len(candidates), key)
    if wanted == len(candidates):
        return list(candidates)
    return [candidates[i] for i in balanced_sample(data.contents(candidates), wanted, seed)]


def _check_apart(labelled: Sequence[Item], validation: Sequence[Item]) -> None:
    both = sorted({item.image_id for item in labelled} & {item.image_id for item in validation})
    if both:
        raise UserError(
            f"data.labelled and data.validation share {len(both)} images, such as {both[0]}; "
            "what is learnt from cannot be measured on"
        )


def _unlabelled(
    config: DataConfig, data: DataSet, labelled: Sequence[Item], validation: Sequence[Item]
) -> Sequence[Item]:
    outside = {item.image_id for item in validation}
    if config.unlabelled is None:
        outside |= {item.image_id for item in labelled}
        return [data.items[i] for i in data.train if i not in outside]
    items = read_split(config.unlabelled, data, "data.unlabelled")
    shared = sum(item.image_id in outside for item in items)
    if shared:
        _log.warning("%d unlabelled images are validation images too; their masks are not used", shared)
    return items
