"""Validation shared by all workers, each image counted once: mIoU, and how good the labels are that teach."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segray.models.metrics import class_iou, confusion_matrix, mean_iou, pixel_accuracy
from segray.models.segmenters.inference import image_logits
from segray.models.segmenters.registry import Segmenter
from segray.models.semi.objective import IGNORE
from segray.pipelines.training.data.datasets import UnlabelledImages
from segray.pipelines.training.session import Session, sum_over_workers

LABELS = ("model", "zero_shot", "enhanced")
"""Whose label is scored: the network's, the label set's, and what Eq. 7 makes of the two."""


@torch.no_grad()
def validate(
    network: Segmenter,
    images: Dataset[Any],
    zero_shot: UnlabelledImages | None,
    *,
    classes: int,
    tau: float,
    window: int | None,
    session: Session,
) -> dict[str, Any]:
    """StepMetrics over all validation images, the same on every worker.

    Args:
        network: what predicts; its mode is restored.
        images: items (image, mask).
        zero_shot: the label set's view of the same images, or None.
        classes: how many.
        tau: from this confidence on the enhanced label is the model's.
        window: see `image_logits`.
        session: this worker shares the images with the others by rank.

    Returns:
        `miou`, `accuracy`, `iou` and `confusion` of the network, and with `zero_shot` the first two of the
        zero-shot and the enhanced labels; None where a figure is not defined.
    """
    was = network.training
    network.eval()
    device = next(network.parameters()).device
    counts = torch.zeros(len(LABELS), classes, classes, dtype=torch.int64, device=device)
    for index in range(session.rank, len(images), session.workers):  # type: ignore[arg-type]
        image, mask = images[index]
        logits = image_logits(network, image, window=window)
        _count(counts[0], mask, logits.argmax(0))
        if zero_shot is not None:
            given = _given(zero_shot, index, mask).to(device)
            confidence, own = logits.softmax(0).max(0)
            enhanced = torch.where((confidence >= tau) | (given == IGNORE), own, given)
            _count(counts[1], mask, torch.where(given == IGNORE, 0, given))
            _count(counts[2], mask, enhanced)
    network.train(was)
    return _figures(sum_over_workers(counts).cpu(), zero_shot is not None)


def _given(zero_shot: UnlabelledImages, index: int, mask: Tensor) -> Tensor:
    found = zero_shot.labels(index)
    return torch.full_like(mask, IGNORE, dtype=torch.int64) if found is None else found[0].long()


def _count(counts: Tensor, mask: Tensor, label: Tensor) -> None:
    counts += confusion_matrix(mask.to(label.device).long(), label, len(counts), IGNORE)


def _figures(counts: Tensor, with_labels: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "miou": _number(mean_iou(counts[0])),
        "accuracy": _number(pixel_accuracy(counts[0])),
        "iou": [_number(v) for v in class_iou(counts[0])],
        "confusion": counts[0].tolist(),
    }
    for i, name in enumerate(LABELS[1:], start=1):
        if with_labels:
            figures[f"{name}_miou"] = _number(mean_iou(counts[i]))
            figures[f"{name}_accuracy"] = _number(pixel_accuracy(counts[i]))
    return figures


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
