from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from segray.pipelines.reporting.training.charts import (
    LOSS,
    SHARE,
    WHOLE_SHARE,
    Axis,
    LineChart,
    Points,
    Series,
    line_chart,
)


def series(points: Points, name: str = "a", key: str = "loss") -> Series:
    return Series(name, key, "ink", points)


class Drawing:
    """The parts of a chart, read from its SVG."""

    def __init__(self, chart: LineChart | None) -> None:
        assert chart is not None
        self.groups = [(group.get("class", ""), group) for group in ET.fromstring(chart.svg).iter("g")]
        self.texts = [(text.text or "", text) for _, group in self.groups for text in group.findall("text")]

    def path(self, css_class: str) -> str:
        (path,) = [
            path.get("d", "")
            for name, group in self.groups
            if name == css_class
            for path in group.iter("path")
        ]
        return path

    def points(self, css_class: str) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", self.path(css_class))]

    def grid(self) -> list[float]:
        """y of the grid lines, from the bottom up."""
        lines = [
            [float(y) for _, y in re.findall(r"([-\d.]+) ([-\d.]+)", path.get("d", ""))]
            for _, group in self.groups
            for path in group.findall("path")
            if "var(--line)" in path.get("style", "") and "clip-path" in path.attrib
        ]
        assert all(start == end for start, end in lines)
        return [start for start, _ in lines]

    def ticks(self, unit: str = "") -> list[str]:
        return [
            text.replace("\u00a0", " ") for text, _ in self.texts if text.endswith(unit) and text != "epoch"
        ]

    def dots(self) -> list[ET.Element]:
        return [use for name, group in self.groups if name == "dots" for use in group.iter("use")]

    def tips(self) -> list[str]:
        return [(use.findtext("title") or "").replace("\u00a0", " ") for use in self.dots()]


def test_curves_are_where_their_values_are() -> None:
    first = series([(0, 0.5), (2, 1.0)], key="enhanced")
    second = series([(0, 0.0), (2, 0.0)], "b", "zero_shot")
    drawing = Drawing(line_chart("c", [first, second], SHARE, best=2, area=True))
    grid = drawing.grid()
    assert drawing.ticks("%") == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
    (left, middle), (right, top) = drawing.points("of-enhanced")
    assert middle == pytest.approx((grid[0] + grid[-1]) / 2, abs=0.01)
    assert top == pytest.approx(grid[-1], abs=0.01)
    assert {(left, grid[0]), (right, grid[0])} == set(drawing.points("of-zero_shot"))
    assert {x for x, _ in drawing.points("mark")} == {right}
    assert drawing.ticks()[:3] == ["0", "1", "2"]
    assert float(dict(drawing.texts)["2"].get("x", "")) == pytest.approx(right)
    assert drawing.tips()[1] == "epoch 2: a 100.0 %"
    assert [float(dot.get(axis, "")) for dot in drawing.dots()[1:2] for axis in "xy"] == [right, top]
    assert ["opacity" in dot.get("style", "") for dot in drawing.dots()] == [False, False, True, True]
    assert "area" in [name for name, _ in drawing.groups]


def test_a_value_that_is_missing_is_a_gap_and_a_curve_without_values_is_left_out() -> None:
    gap = series([(1, 1.0), (2, None), (3, 3.0), (4, 2.0), (5, None)])
    chart = line_chart("c", [gap, series([(1, None)], "b", "x")], LOSS, area=True)
    assert chart is not None
    assert [(entry.name, entry.last) for entry in chart.legend] == [("a", "2")]
    drawing = Drawing(chart)
    assert drawing.path("of-loss").count("M") == 2
    assert not {"area", "of-x"} & {name for name, _ in drawing.groups}
    assert line_chart("c", [series([(1, None)])], SHARE) is None


@pytest.mark.parametrize("axis", [SHARE, WHOLE_SHARE, LOSS])
@pytest.mark.parametrize(
    "values", [[0.5], [0.0], [1.0], [0.3, 0.3], [0.91, 0.9102], [1e-9, 0.0], [0.0, 1e12, -1e12]]
)
def test_every_curve_fits_into_its_plot(axis: Axis, values: list[float]) -> None:
    drawing = Drawing(line_chart("c", [series(list(enumerate(values)))], axis))
    grid = drawing.grid()
    heights = [float(dot.get("y", "")) for dot in drawing.dots()]
    assert all(grid[-1] - 1e-3 <= y <= grid[0] + 1e-3 for y in heights)
    assert 2 <= len(grid) <= 8
    ticks = [text for text, label in drawing.texts if "text-anchor: end" in label.get("style", "")]
    assert len(set(ticks)) == len(ticks) == len(grid)


def test_a_long_run_shows_a_choice_of_its_points_with_the_last() -> None:
    drawing = Drawing(line_chart("c", [series([(e, e / 1000) for e in range(1, 1001)])], SHARE))
    assert all("opacity: 0" in dot.get("style", "") for dot in drawing.dots())
    assert len(drawing.tips()) <= 120
    assert drawing.tips()[-1].startswith("epoch 1000:")
    assert drawing.path("of-loss").count("L") == 999


def test_class_names_are_text() -> None:
    chart = line_chart("<b>", [series([(1, 0.5)], "<script>&")], SHARE)
    assert chart is not None
    assert "<script>" not in chart.svg
    assert Drawing(chart).tips() == ["epoch 1: <script>& 50.0 %"]
