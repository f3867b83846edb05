from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segray.models import metrics
from segray.models.metrics import (
    Confusion,
    class_iou,
    class_sums,
    confusion_matrix,
    iou_of_sums,
    mean_iou,
    pixel_accuracy,
)

TRUTH = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
GUESS = np.array([[0, 1, 1], [1, 0, 2]], np.uint8)


def naive(truth: Confusion, guess: Confusion, n: int, ignore: int | None) -> Confusion:
    counts = np.zeros((n, n), np.int64)
    for t, p in zip(truth.ravel().tolist(), guess.ravel().tolist(), strict=True):
        if t != ignore:
            counts[t, p] += 1
    return counts


def random_pair(seed: int, n: int, ignore: int | None) -> tuple[Confusion, Confusion]:
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(0, n, (2, 37, 23))
    if ignore is not None:
        truth[rng.random(truth.shape) < 0.2] = ignore
    return truth, guess


def test_rows_are_truth_and_columns_prediction() -> None:
    assert confusion_matrix(TRUTH, GUESS, 3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


@pytest.mark.parametrize("ignore", [255, 3, None])
@pytest.mark.parametrize("n", [1, 4, 21])
def test_equals_a_loop_over_the_pixels(n: int, ignore: int | None) -> None:
    truth, guess = random_pair(n, n, ignore)
    expected = naive(truth, guess, n, ignore)
    assert np.array_equal(confusion_matrix(truth, guess, n, ignore), expected)
    tensor = confusion_matrix(torch.from_numpy(truth), torch.from_numpy(guess), n, ignore)
    assert tensor.dtype == torch.int64
    assert np.array_equal(tensor.numpy(), expected)


def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, guess = random_pair(0, 5, 255)
    whole = confusion_matrix(truth, guess, 5)
    monkeypatch.setattr(metrics, "_CHUNK", 100)
    assert np.array_equal(confusion_matrix(truth, guess, 5), whole)


def test_uint8_ids_do_not_overflow() -> None:
    ids = np.full((2, 2), 200, np.uint8)
    assert confusion_matrix(ids, ids, 201)[200, 200] == 4


def test_hand_worked_iou_and_accuracy() -> None:
    counts = confusion_matrix(TRUTH, GUESS, 3)
    # class 0: 1 of {2 true, 2 predicted}; class 1: 2 of {2, 3}; class 2: 0 of {1, 0}
    assert class_iou(counts).tolist() == pytest.approx([1 / 3, 2 / 3, 0.0])
    assert mean_iou(counts) == pytest.approx(1 / 3)
    assert pixel_accuracy(counts) == pytest.approx(3 / 5)


def test_a_class_nowhere_is_nan_and_not_in_the_mean() -> None:
    counts = confusion_matrix(TRUTH, GUESS, 5)
    assert np.isnan(class_iou(counts)).tolist() == [False, False, False, True, True]
    assert mean_iou(counts) == pytest.approx(1 / 3)


def test_a_class_only_predicted_counts_as_zero() -> None:
    counts = confusion_matrix(np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 1]], np.uint8), 2)
    assert class_iou(counts).tolist() == [0.75, 0.0]
    assert mean_iou(counts) == 0.375


def test_iou_is_over_the_set_and_not_the_mean_of_images() -> None:
    perfect, empty = np.ones(1, np.uint8), np.zeros(9, np.uint8)
    total = confusion_matrix(perfect, perfect, 2) + confusion_matrix(np.ones(9, np.uint8), empty, 2)
    assert class_iou(total)[1] == pytest.approx(0.1)


def test_all_pixels_ignored() -> None:
    void = np.full((3, 3), 255, np.uint8)
    counts = confusion_matrix(void, void, 2)
    assert counts.sum() == 0
    assert math.isnan(mean_iou(counts))
    assert math.isnan(pixel_accuracy(counts))


def test_metrics_of_a_tensor_equal_those_of_an_array() -> None:
    counts = confusion_matrix(TRUTH, GUESS, 4)
    tensor = torch.from_numpy(counts)
    assert np.array_equal(class_iou(tensor), class_iou(counts), equal_nan=True)
    assert (mean_iou(tensor), pixel_accuracy(tensor)) == (mean_iou(counts), pixel_accuracy(counts))


@pytest.mark.parametrize(
    ("truth", "guess", "message"),
    [
        ([3], [0], r"truth holds id 3; allowed: 0 to 2 and 255 \(ignored\)"),
        ([-1], [0], "truth holds id -1"),
        ([0], [255], "prediction holds id 255; allowed: 0 to 2"),
        ([0], [-1], "prediction holds id -1"),
        ([0, 1], [0], r"truth has shape \(2,\), prediction \(1,\)"),
        ([0.0], [0], "truth is float64, must be integer"),
        ([0], [0.5], "prediction is float64, must be integer"),
    ],
)
def test_refuses(truth: list[int], guess: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(truth), np.array(guess), 3)
    with pytest.raises(ValueError, match=message.replace("float64", r"torch\.float64")):
        confusion_matrix(torch.from_numpy(np.array(truth)), torch.from_numpy(np.array(guess)), 3)


def test_refuses_an_array_beside_a_tensor() -> None:
    with pytest.raises(ValueError, match="both arrays or both tensors"):
        confusion_matrix(torch.zeros(1, dtype=torch.int64), np.zeros(1, np.int64), 3)  # type: ignore[call-overload]


def test_an_ignored_truth_pixel_excuses_any_prediction() -> None:
    assert confusion_matrix(np.array([255, 1]), np.array([99, 1]), 2).tolist() == [[0, 0], [0, 1]]


def test_sums_of_classes_give_the_scores_of_the_matrix() -> None:
    rng = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 6, (40, 30), generator=rng)
    prediction = torch.randint(0, 5, (40, 30), generator=rng)
    truth[truth == 5] = 65535
    matrix = confusion_matrix(truth, prediction, 7, 65535)
    right, true, predicted = class_sums(truth, prediction, 7, 65535).numpy()
    np.testing.assert_array_equal(right, matrix.diag())
    np.testing.assert_array_equal(true, matrix.sum(1))
    np.testing.assert_array_equal(predicted, matrix.sum(0))
    np.testing.assert_array_equal(iou_of_sums(right, true, predicted), class_iou(matrix))
