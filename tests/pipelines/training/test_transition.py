"""The transition matrix of a calibrated label set, by the ids of the data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segray.pipelines.errors import UserError
from segray.pipelines.training.transition import read_transition

SHARES = [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.0, 0.25, 0.75]]
PRIOR = [0.5, 0.4, 0.1]
CLASSES = ["background", "tree", "house"]


def written(folder: Path, **changes: Any) -> str:
    content = {"classes": CLASSES, "shares": SHARES, "prior": PRIOR, **changes}
    (folder / "calibration.json").write_text(json.dumps({"transition": content}))
    return str(folder)


def test_the_matrix_is_by_the_share_of_each_class(tmp_path: Path) -> None:
    expected = [[1.6, 0.25, 1.0], [0.4, 1.5, 2.0], [0.0, 0.625, 7.5]]
    np.testing.assert_allclose(read_transition(written(tmp_path), CLASSES), expected)
    np.testing.assert_allclose(read_transition(str(tmp_path), ["void", *CLASSES[1:]]), expected)


def test_nothing_is_known_of_a_class_that_no_mask_has(tmp_path: Path) -> None:
    shares = [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.5, 0.5, 0.0]]
    matrix = read_transition(written(tmp_path, shares=shares, prior=[0.5, 0.5, 0.0]), CLASSES)
    np.testing.assert_allclose(matrix, [[1.8, 0.2, 1.0], [0.4, 1.6, 1.0], [1.0, 1.0, 1.0]])


def test_data_without_background_leave_it_out(tmp_path: Path) -> None:
    # Rows 0.75, 0.25 and 0.25, 0.75; prior 0.8, 0.2.
    expected = [[0.9375, 1.25], [0.3125, 3.75]]
    np.testing.assert_allclose(read_transition(written(tmp_path), CLASSES[1:]), expected)


def test_a_label_set_that_is_not_calibrated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^pseudo\.posterior=transition: \S+ is not calibrated; run "):
        read_transition(str(tmp_path), CLASSES)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shares": SHARES[:2]}, r"shares of shape \[2, 3\] for 3 classes"),
        ({"shares": [[1, 0, 0], [0, 1, 0], [0, 0, 0.9]]}, "shares that do not add up to 1"),
        ({"shares": [[2, -1, 0], [0, 1, 0], [0, 0, 1]]}, "shares that do not add up to 1"),
        ({"shares": "x"}, "could not convert"),
        ({"prior": [0.5, 0.5]}, r"a prior of shape \[2\] for 3 classes"),
        ({"prior": [0.5, 0.5, 0.5]}, "shares that do not add up to 1"),
        ({"classes": [1, 2, 3]}, "a class without a name"),
        ({"classes": None}, "not iterable"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=rf"calibration\.json is damaged \(.*{reason}") as caught:
        read_transition(written(tmp_path, **changes), CLASSES)
    assert "\n" not in str(caught.value)


def test_what_an_earlier_version_wrote_is_calibrated_again(tmp_path: Path) -> None:
    content = {"transition": {"classes": CLASSES, "shares": SHARES}}
    (tmp_path / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"has no 'prior': an earlier version .* the same `segray calibrate`"):
        read_transition(str(tmp_path), CLASSES)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class 2 is 'house' in the label set and 'boat' in the data"):
        read_transition(written(tmp_path), ["background", "tree", "boat"])
