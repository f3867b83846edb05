"""Validation shared by all workers, each image counted once: the network, and the labels it learns from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segray.models.label_space import ignore_index_of, is_wide
from segray.models.metrics import class_iou, confusion_matrix, mean_iou, pixel_accuracy
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
    counts = torch.zeros(3, classes, classes, dtype=torch.int64, device=device)
    unknown = ignore_index_of(classes)
    ignored = torch.zeros((), dtype=torch.int64, device=device)
    warn = once(session.log)
    notes = Notes(session, f"the validation of {len(images)} images")
    for index in range(session.rank, len(images), session.workers):
        notes.show(index)
        image, mask = images[index]
        prediction = predict(network, image, Inference(window), warn)
        _count(counts[MODEL], mask, prediction.label)
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
    return torch.where(replaced, prediction.label, zero_shot)


def _count(counts: Tensor, mask: Tensor, label: Tensor) -> None:
    counts += confusion_matrix(mask.to(label.device).long(), label, len(counts), ignore_index_of(len(counts)))


def _metrics(counts: Tensor, with_labels: bool) -> ValidationMetrics:
    metrics: ValidationMetrics = {
        "miou": _miou(counts[MODEL]),
        "accuracy": _number(pixel_accuracy(counts[MODEL])),
        "iou": [_number(value) for value in class_iou(counts[MODEL])],
        "confusion": _rows(counts[MODEL]).tolist(),
    }
    if with_labels:
        metrics["zero_shot_miou"] = _miou(counts[ZERO_SHOT])
        metrics["zero_shot_accuracy"] = _number(pixel_accuracy(counts[ZERO_SHOT]))
        metrics["enhanced_miou"] = _miou(counts[ENHANCED])
        metrics["enhanced_accuracy"] = _number(pixel_accuracy(counts[ENHANCED]))
    return metrics


def _rows(counts: Tensor) -> Tensor:
    """The confusion matrix; right and wrong pixels of so many classes that a history could not hold it."""
    right = counts.diag()
    return torch.stack([right, counts.sum(1) - right], 1) if is_wide(len(counts)) else counts


def _miou(counts: Tensor) -> float | None:
    """The mean IoU; None where the masks hold fewer than two classes."""
    return _number(mean_iou(counts)) if int((counts.sum(1) > 0).sum()) > 1 else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
