"""Validation shared by all workers, each image counted once: the network, and the labels it learns from."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.models.label_space import ignore_index_of, is_wide
from segray.models.metrics import class_sums, confusion_matrix, iou_of_sums
from segray.models.segmenters.inference import Inference, Prediction, Window, predict
from segray.models.segmenters.registry import Segmenter
from segray.pipelines.training.data.datasets import LabelledImages, UnlabelledImages
from segray.pipelines.training.history import ValidationMetrics
from segray.pipelines.training.session import Notes, Session, once, sum_over_workers

MODEL, ZERO_SHOT, ENHANCED = range(3)
"""Labels that are compared with the masks: the network's, the label set's, and Eq. 7's."""


@torch.no_grad()
def validate(
    network: Segmenter,
    images: LabelledImages,
    zero_shot: UnlabelledImages | None,
    *,
    classes: int,
    tau: float,
    window: Window,
    session: Session,
) -> ValidationMetrics:
    """Metrics over all validation images, the same on every worker.

    Args:
        network: predicts; its mode is restored.
        images: items (image, mask).
        zero_shot: the label set's view of the same images; None without a label set.
        classes: how many.
        tau: confidence from which the enhanced label is the network's.
        window: which images are predicted piece by piece.
        session: this worker takes every n-th image, by its rank.
    """
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    # A matrix of many thousand classes does not fit into memory.
    rows = 3 if is_wide(classes) else classes
    counts = torch.zeros(3, rows, classes, dtype=torch.int64, device=device)
    unknown = ignore_index_of(classes)
    ignored = torch.zeros((), dtype=torch.int64, device=device)
    warn = once(session.log)
    notes = Notes(session, f"the validation of {len(images)} images")
    for index in range(session.rank, len(images), session.workers):
        notes.show(index)
        image, mask = images[index]
        prediction = predict(network, image, Inference(window), warn)
        _count(counts[MODEL], mask, prediction.label.long())
        ignored += (mask == unknown).sum().to(device)
        if zero_shot is not None:
            label = _zero_shot_label(zero_shot, index, mask, unknown).to(device)
            _count(counts[ZERO_SHOT], mask, torch.where(label == unknown, 0, label))
            _count(counts[ENHANCED], mask, _enhanced(prediction, label, tau, unknown))
    network.train(training)
    metrics = _metrics(sum_over_workers(counts).cpu(), zero_shot is not None)
    counted, left_out = sum(map(sum, metrics["confusion"])), int(sum_over_workers(ignored))
    metrics["ignored"] = left_out / (counted + left_out) if counted + left_out else None
    return metrics


def _zero_shot_label(zero_shot: UnlabelledImages, index: int, mask: Tensor, unknown: int) -> Tensor:
    labels = zero_shot.labels(index)
    return torch.full_like(mask, unknown, dtype=torch.int64) if labels is None else labels[0].long()


def _enhanced(prediction: Prediction, zero_shot: Tensor, tau: float, unknown: int) -> Tensor:
    """Eq. 7 as a complete label: the network's class also where there is no zero-shot class."""
    replaced = (prediction.confidence >= tau) | (zero_shot == unknown)
    return torch.where(replaced, prediction.label.long(), zero_shot)


def _count(counts: Tensor, mask: Tensor, label: Tensor) -> None:
    """Add an image to a confusion matrix, or to the `class_sums` of many classes."""
    classes = counts.shape[1]
    count = class_sums if is_wide(classes) else confusion_matrix
    counts += count(mask.to(label.device).long(), label, classes, ignore_index_of(classes))


def _metrics(counts: Tensor, with_labels: bool) -> ValidationMetrics:
    metrics: ValidationMetrics = {
        "miou": _miou(counts[MODEL]),
        "accuracy": _accuracy(counts[MODEL]),
        "iou": [_number(value) for value in _iou(counts[MODEL])],
        "confusion": _rows(counts[MODEL]).tolist(),
    }
    if with_labels:
        metrics["zero_shot_miou"] = _miou(counts[ZERO_SHOT])
        metrics["zero_shot_accuracy"] = _accuracy(counts[ZERO_SHOT])
        metrics["enhanced_miou"] = _miou(counts[ENHANCED])
        metrics["enhanced_accuracy"] = _accuracy(counts[ENHANCED])
    return metrics


def _sums(counts: Tensor) -> Tensor:
    """`class_sums` [3, C] of a confusion matrix, or those of many classes as they are."""
    if is_wide(counts.shape[1]):
        return counts
    return torch.stack([counts.diag(), counts.sum(1), counts.sum(0)])


def _rows(counts: Tensor) -> Tensor:
    """The confusion matrix; right and wrong pixels of so many classes that a history could not hold it."""
    if not is_wide(counts.shape[1]):
        return counts
    right, truth, _ = counts
    return torch.stack([right, truth - right], 1)


def _iou(counts: Tensor) -> NDArray[np.float64]:
    return iou_of_sums(*_sums(counts).numpy())


def _accuracy(counts: Tensor) -> float | None:
    right, truth, _ = _sums(counts)
    return int(right.sum()) / int(truth.sum()) if truth.any() else None


def _miou(counts: Tensor) -> float | None:
    """The mean IoU; None where the masks hold fewer than two classes."""
    several = int((_sums(counts)[1] > 0).sum()) > 1
    return _number(float(np.nanmean(_iou(counts)))) if several else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
