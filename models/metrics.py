"""Confusion matrix, IoU and pixel accuracy of label maps, exact in int64."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

Confusion = NDArray[np.int64]

_CHUNK = 1 << 22


@overload
def confusion_matrix(
    truth: NDArray[np.generic],
    prediction: NDArray[np.generic],
    n_classes: int,
    ignore_index: int | None = 255,
) -> Confusion: ...
@overload
def confusion_matrix(
    truth: torch.Tensor, prediction: torch.Tensor, n_classes: int, ignore_index: int | None = 255
) -> torch.Tensor: ...
def confusion_matrix(
    truth: NDArray[np.generic] | torch.Tensor,
    prediction: NDArray[np.generic] | torch.Tensor,
    n_classes: int,
    ignore_index: int | None = 255,
) -> Confusion | torch.Tensor:
    """Count the pixels of each (true class, predicted class) pair.

    Matrices of several images add up to the matrix of the set, also across workers.

    Args:
        truth: integer ids of any shape; pixels equal to `ignore_index` are left out.
        prediction: integer ids of the same shape; tensors need the same device.
        n_classes: C; ids run from 0 to C-1.
        ignore_index: None counts every pixel.

    Returns:
        int64 [C, C], rows are true classes; an array for arrays, a tensor on the same device for tensors.

    Raises:
        ValueError: shapes differ, the kinds are mixed, values are not integers, or a counted id lies outside
            0 to C-1. That includes a prediction of `ignore_index`: leaving it out would flatter the score.
    """
    if tuple(truth.shape) != tuple(prediction.shape):
        raise ValueError(
            f"truth has shape {tuple(truth.shape)}, prediction {tuple(prediction.shape)}: must be equal"
        )
    if isinstance(truth, torch.Tensor) and isinstance(prediction, torch.Tensor):
        return _count_tensors(truth.reshape(-1), prediction.reshape(-1), n_classes, ignore_index)
    if isinstance(truth, torch.Tensor) or isinstance(prediction, torch.Tensor):
        raise ValueError("truth and prediction must be both arrays or both tensors")
    return _count_arrays(truth.reshape(-1), prediction.reshape(-1), n_classes, ignore_index)


def class_iou(confusion: Confusion | torch.Tensor) -> NDArray[np.float64]:
    """IoU of each class over the whole set (Eq. 11): `|G and P| / |G or P|`.

    Returns:
        float64 [C]; nan for a class that has no pixel in truth nor prediction, where 0 would be wrong.
    """
    matrix = _as_array(confusion)
    return iou_of_sums(np.diagonal(matrix), matrix.sum(1), matrix.sum(0))


def iou_of_sums(
    right: NDArray[np.int64], truth: NDArray[np.int64], predicted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`class_iou` from the pixels of each class: the right, the true and the predicted ones."""
    either = predicted + truth - right
    return np.divide(right.astype(np.float64), either, out=np.full(len(right), np.nan), where=either > 0)


def class_sums(
    truth: torch.Tensor, prediction: torch.Tensor, n_classes: int, ignore_index: int
) -> torch.Tensor:
    """Pixels of each class: right, true and predicted; what IoU needs, without the square of the classes.

    Args:
        truth: integer ids of any shape; pixels equal to `ignore_index` are left out.
        prediction: integer ids of the same shape, on the same device, none of them `ignore_index`.
        n_classes: C.
        ignore_index: of `truth`.

    Returns:
        int64 [3, C], on the same device.
    """
    counted = truth != ignore_index
    true, predicted = truth[counted].long(), prediction[counted].long()
    kinds = (true[true == predicted], true, predicted)
    return torch.stack([torch.bincount(ids, minlength=n_classes) for ids in kinds])


def mean_iou(confusion: Confusion | torch.Tensor) -> float:
    """Mean of `class_iou` over the classes that occur in truth or prediction; nan where none does."""
    iou = class_iou(confusion)
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else float("nan")


def pixel_accuracy(confusion: Confusion | torch.Tensor) -> float:
    """Share of counted pixels whose class is right; nan where no pixel counts."""
    matrix = _as_array(confusion)
    total = int(matrix.sum())
    return int(np.trace(matrix)) / total if total else float("nan")


def _count_arrays(
    truth: NDArray[np.generic], prediction: NDArray[np.generic], n_classes: int, ignore_index: int | None
) -> Confusion:
    for name, values in (("truth", truth), ("prediction", prediction)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"{name} is {values.dtype}, must be integer class ids")
    counts = np.zeros(n_classes * n_classes, np.int64)
    # bincount widens ids to 8 bytes each: in chunks, a 100-megapixel map needs no gigabyte.
    for start in range(0, truth.size, _CHUNK):
        true, predicted = truth[start : start + _CHUNK], prediction[start : start + _CHUNK]
        if ignore_index is not None:
            counted = true != ignore_index
            true, predicted = true[counted], predicted[counted]
        for name, values in (("truth", true), ("prediction", predicted)):
            if values.size:
                _check_range(name, int(values.min()), int(values.max()), n_classes, ignore_index)
        pairs = true.astype(np.int64) * n_classes + predicted.astype(np.int64)
        counts += np.bincount(pairs, minlength=counts.size)
    return counts.reshape(n_classes, n_classes)


def _count_tensors(
    truth: torch.Tensor, prediction: torch.Tensor, n_classes: int, ignore_index: int | None
) -> torch.Tensor:
    for name, values in (("truth", truth), ("prediction", prediction)):
        if values.is_floating_point() or values.is_complex():
            raise ValueError(f"{name} is {values.dtype}, must be integer class ids")
    if ignore_index is not None:
        counted = truth != ignore_index
        truth, prediction = truth[counted], prediction[counted]
    for name, values in (("truth", truth), ("prediction", prediction)):
        if values.numel():
            _check_range(name, int(values.min()), int(values.max()), n_classes, ignore_index)
    pairs = truth.long() * n_classes + prediction.long()
    return torch.bincount(pairs, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def _check_range(name: str, low: int, high: int, n_classes: int, ignore_index: int | None) -> None:
    bad = low if low < 0 else high
    if 0 <= bad < n_classes:
        return
    allowed = f"0 to {n_classes - 1}"
    if name == "truth" and ignore_index is not None:
        allowed += f" and {ignore_index} (ignored)"
    raise ValueError(f"{name} holds id {bad}; allowed: {allowed}")


def _as_array(confusion: Confusion | torch.Tensor) -> Confusion:
    if isinstance(confusion, torch.Tensor):
        return confusion.detach().cpu().numpy()
    return confusion
