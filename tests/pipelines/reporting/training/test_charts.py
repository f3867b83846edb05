from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segray.pipelines.reporting.training.charts import (
    LOSS,
    SHARE,
    WHOLE_SHARE,
    Series,
    heat_table,
    line_chart,
)
from tests.pipelines.reporting.training.training_folders import CLASSES


def test_curves_stand_where_their_values_are() -> None:
    first, second = (
        Series("a", "enhanced", [(0, 0.5), (2, 1.0)]),
        Series("b", "zero_shot", [(0, 0.0), (2, 0.0)]),
    )
    chart = line_chart("c", [first, second], SHARE, best=2, area=True)
    assert chart is not None
    assert chart.rows[0] == (chart.bottom, "0\u00a0%")
    assert chart.rows[-1] == (chart.top, "100\u00a0%")
    middle = (chart.top + chart.bottom) / 2
    assert chart.lines[0]["path"] == f"M{chart.left}.0 {middle:.1f} L{chart.right}.0 {chart.top}.0"
    assert chart.area.endswith(f"L{chart.right}.0 {chart.bottom}.0 L{chart.left}.0 {chart.bottom}.0 Z")
    assert chart.mark == chart.right
    assert [text for _, text in chart.columns] == ["0", "1", "2"]
    assert chart.columns[-1] == (chart.right, "2")
    assert chart.lines[0]["dots"][1] == (chart.right, chart.top, "epoch 2: a 100.0\u00a0%")
    assert [line["dotted"] for line in chart.lines] == [True, False]


def test_a_value_that_is_missing_is_a_gap_and_a_curve_without_values_is_left_out() -> None:
    series = Series("a", "loss", [(1, 1.0), (2, None), (3, 3.0), (4, 2.0), (5, None)])
    chart = line_chart("c", [series, Series("b", "x", [(1, None)])], LOSS, area=True)
    assert chart is not None
    assert len(chart.lines) == 1
    assert chart.lines[0]["path"].count("M") == 2
    assert chart.lines[0]["last"] == "2"
    assert chart.area == ""
    assert line_chart("c", [Series("b", "x", [(1, None)])], SHARE) is None


@pytest.mark.parametrize("axis", [SHARE, WHOLE_SHARE, LOSS])
@pytest.mark.parametrize(
    "values", [[0.5], [0.0], [1.0], [0.3, 0.3], [0.91, 0.9102], [1e-9, 0.0], [0.0, 1e12, -1e12]]
)
def test_every_curve_fits_into_its_plot(axis: Any, values: list[float]) -> None:
    chart = line_chart("c", [Series("a", "x", list(enumerate(values)))], axis)
    assert chart is not None
    heights = [y for _, y, _ in chart.lines[0]["dots"]]
    assert all(chart.top - 1e-6 <= y <= chart.bottom + 1e-6 for y in heights)
    assert 2 <= len(chart.rows) <= 8
    assert len({text for _, text in chart.rows}) == len(chart.rows)


def test_a_long_run_shows_a_choice_of_its_points_with_the_last() -> None:
    chart = line_chart("c", [Series("a", "x", [(e, e / 1000) for e in range(1, 1001)])], SHARE)
    assert chart is not None
    line = chart.lines[0]
    assert not line["dotted"]
    assert len(line["dots"]) <= 120
    assert line["dots"][-1][2].startswith("epoch 1000:")
    assert line["path"].count("L") == 999


def test_confusion_is_shown_as_shares_of_the_true_class() -> None:
    counts = np.array([[999, 1, 0], [1, 1, 2], [0, 0, 0]])
    heat = heat_table(counts, CLASSES)
    assert heat["columns"] == list(CLASSES)
    assert [[cell["text"] for cell in row["cells"]] for row in heat["rows"]] == [
        ["99", "", ""],
        ["25", "25", "50"],
        [],
    ]
    assert [cell["right"] for cell in heat["rows"][1]["cells"]] == [False, True, False]
    assert heat["rows"][1]["cells"][2]["level"] == 50
    assert heat["rows"][0]["pixels"] == "1,000"
    assert heat["left_out"] == 0


def test_of_many_classes_the_rare_ones_are_others() -> None:
    counts = np.diag(np.arange(30) + 1)
    counts[29, :2] = 30, 60
    heat = heat_table(counts, [f"c{i}" for i in range(30)])
    # Others are taken for c0 and c1 so often that they are no rare ones.
    assert heat["columns"] == ["c0", "c1", *(f"c{i}" for i in range(11, 30)), "others"]
    assert heat["left_out"] == 9
    counts[20, 3] = 7
    row = heat_table(counts, [f"c{i}" for i in range(30)])["rows"][11]
    assert (row["name"], row["pixels"]) == ("c20", "28")
    assert [cell["text"] for cell in row["cells"] if cell["text"]] == ["75", "25"]
    assert row["cells"][-1]["level"] == 25
