from __future__ import annotations

import numpy as np

from segray.pipelines.reporting.training.confusion import confusion_table
from tests.pipelines.reporting.training.training_folders import CLASSES


def test_confusion_is_shown_as_shares_of_the_true_class() -> None:
    counts = np.array([[999, 1, 0], [1, 1, 2], [0, 0, 0]])
    heat = confusion_table(counts, CLASSES)
    assert heat.columns == list(CLASSES)
    assert [[cell.text for cell in row.cells] for row in heat.rows] == [
        ["99", "", ""],
        ["25", "25", "50"],
        [],
    ]
    assert [cell.right for cell in heat.rows[1].cells] == [False, True, False]
    assert heat.rows[1].cells[2].level == 50
    assert heat.rows[0].pixels == "1,000"
    assert heat.left_out == 0


def test_of_many_classes_the_rare_ones_are_others() -> None:
    counts = np.diag(np.arange(30) + 1)
    counts[29, :2] = 30, 60
    heat = confusion_table(counts, [f"c{i}" for i in range(30)])
    # Others are taken for c0 and c1 so often that they are no rare ones.
    assert heat.columns == ["c0", "c1", *(f"c{i}" for i in range(11, 30)), "others"]
    assert heat.left_out == 9
    counts[20, 3] = 7
    row = confusion_table(counts, [f"c{i}" for i in range(30)]).rows[11]
    assert (row.name, row.pixels) == ("c20", "28")
    assert [cell.text for cell in row.cells if cell.text] == ["75", "25"]
    assert row.cells[-1].level == 25
