"""The history of a run: one entry per validation, as history.json and the checkpoints hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict


class TrainingMetrics(TypedDict):
    """Means over the steps and workers since the last validation.

    `from_model` is the share of unlabelled pixels whose label is the network's prediction, `agreement` the
    share of pixels with a zero-shot class that the network predicts as well; None without such pixels.
    `seconds` is wall time, `waiting` the share of it that was spent waiting for data.
    """

    loss: float
    supervised: float
    unsupervised: float
    from_model: float | None
    agreement: float | None
    seconds: float
    waiting: float


class MeterSums(TypedDict):
    """What a `Meter` has summed over steps and workers: losses per worker, counts over all of them."""

    steps: int
    losses: list[float]
    counts: dict[str, float]
    seconds: float
    waited: float


class ValidationMetrics(TypedDict):
    """Metrics over all validation images, in 0..1; None where a metric is not defined.

    `iou` has one value per class; `confusion[i][j]` counts the pixels of class i predicted as j. With more
    than 254 classes its rows have two numbers: the right and the wrong pixels of class i. `miou` is not
    defined where the masks hold fewer than two classes: a perfect score of one class says nothing.
    `ignored` is the share of the masks' pixels that count for nothing. The metrics of zero-shot and enhanced
    labels exist only if the run has a label set.
    """

    miou: float | None
    accuracy: float | None
    iou: list[float | None]
    confusion: list[list[int]]
    ignored: NotRequired[float | None]
    zero_shot_miou: NotRequired[float | None]
    zero_shot_accuracy: NotRequired[float | None]
    enhanced_miou: NotRequired[float | None]
    enhanced_accuracy: NotRequired[float | None]


class HistoryEntry(TrainingMetrics, ValidationMetrics):
    """One validation: steps so far, steps since the last one, epochs so far, learning rate, metrics.

    `labelled_pixels` has one count per class, of the labelled images' masks.
    """

    step: int
    steps: int
    epoch: float
    lr: float
    labelled_pixels: NotRequired[list[int]]


def best_index(mious: Sequence[float | None]) -> int:
    """Position of the highest mIoU, the first of equals; of the last validation where none is defined."""
    defined = [i for i, miou in enumerate(mious) if miou is not None]
    return max(defined, key=lambda i: mious[i] or 0.0) if defined else len(mious) - 1


def has_stopped(mious: Sequence[float | None], patience: int) -> bool:
    """Whether the last `patience` validations were no better than one before them."""
    return bool(mious) and len(mious) - 1 - best_index(mious) >= patience
