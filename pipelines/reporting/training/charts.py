"""Curves of a training run over its epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from segray.pipelines.reporting.charts import COLOURS, Chart
from segray.pipelines.reporting.page import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_DOTS, _MAX_VISIBLE_DOTS = 120, 30
"""Points of a curve that show their value when they are pointed at, and up to how many of them are drawn."""

Points = list[tuple[float, float | None]]


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: in the legend.
        key: CSS class, `of-KEY`.
        colour: name in `COLOURS`.
        points: (x, y) with rising x; the curve has a gap where y is None.
        dashed: whether the line is dashed.
    """

    name: str
    key: str
    colour: str
    points: Points
    dashed: bool = False

    @property
    def known(self) -> list[tuple[float, float]]:
        """The points that have a value."""
        return [(x, y) for x, y in self.points if y is not None]


@dataclass(frozen=True)
class Axis:
    """How the values of a chart are shown.

    Attributes:
        text: a value in the legend and in tips.
        tick: a value on the axis.
        always: values that the axis always covers.
        bounds: the least and the greatest value that the quantity can have.
        least_range: the axis covers at least so much around a level curve.
    """

    text: Callable[[float], str]
    tick: Callable[[float], str]
    always: tuple[float, ...] = ()
    bounds: tuple[float, float] = (0.0, 1.0)
    least_range: float = 0.001


def percent_tick(value: float) -> str:
    """A share of 0 to 1 in percent, with the digits it has."""
    return f"{100 * value:.6g}\u00a0%"


SHARE = Axis(percent, percent_tick)
WHOLE_SHARE = Axis(percent, percent_tick, always=(0.0, 1.0))
LOSS = Axis("{:.4g}".format, "{:.6g}".format, always=(0.0,), bounds=(0.0, math.inf), least_range=1e-6)


@dataclass(frozen=True)
class LegendEntry:
    """One curve in the legend, with its last value as text."""

    name: str
    colour: str
    dashed: bool
    last: str


@dataclass(frozen=True)
class LineChart:
    """A chart for the page.

    Attributes:
        caption: what is shown.
        svg: the `<svg>` element.
        legend: of each curve.
        has_best: whether the best epoch is marked.
    """

    caption: str
    svg: Markup
    legend: list[LegendEntry]
    has_best: bool


def line_chart(
    caption: str, series: Sequence[Series], axis: Axis, *, best: float | None = None, area: bool = False
) -> LineChart | None:
    """Draw curves over the epochs; None if no curve has a value.

    Args:
        caption: what is shown.
        series: curves; those without a value are left out.
        axis: what the values are.
        best: epoch to mark.
        area: fill the area between the first two curves, if both have all values.
    """
    curves = [curve for curve in series if curve.known]
    if not curves:
        return None
    chart = Chart(caption)
    with chart.style():
        _draw(chart, curves, axis, best)
        if area:
            _fill_between(chart, curves)
    legend = [LegendEntry(c.name, c.colour, c.dashed, axis.text(c.known[-1][1])) for c in curves]
    return LineChart(caption, chart.svg(), legend, best is not None)


def _draw(chart: Chart, curves: Sequence[Series], axis: Axis, best: float | None) -> None:
    for curve in curves:
        _draw_line(chart, curve)
        _draw_dots(chart, curve, axis)
    if best is not None:
        line = chart.axes.axvline(best, color=COLOURS["muted"], linestyle=(0, (2, 4)), linewidth=1, zorder=1)
        chart.tag(line, "mark", ["best epoch"])
    _set_epochs(chart.axes, [x for curve in curves for x, _ in curve.points])
    _set_values(chart.axes, [y for curve in curves for _, y in curve.known], axis)


def _draw_line(chart: Chart, curve: Series) -> None:
    x, y = zip(*curve.points, strict=True)
    style = (0, (2.5, 2.5)) if curve.dashed else "solid"
    values = [math.nan if value is None else value for value in y]
    colour = COLOURS[curve.colour]
    (line,) = chart.axes.plot(x, values, color=colour, linestyle=style, linewidth=2, clip_on=False)
    chart.tag(line, f"of-{curve.key}")


def _draw_dots(chart: Chart, curve: Series, axis: Axis) -> None:
    """The points that can be pointed at, the last one included; invisible ones of a long curve."""
    every = math.ceil(len(curve.known) / _MAX_DOTS)
    points = curve.known[::-every][::-1]
    x, y = zip(*points, strict=True)
    visible = _has_visible_dots(curve)
    (dots,) = chart.axes.plot(x, y, "o", color=COLOURS[curve.colour], clip_on=False)
    dots.set(markersize=5.2 if visible else 10, markeredgewidth=0, alpha=None if visible else 0)
    chart.tag(dots, "dots", [f"epoch {epoch:g}: {curve.name} {axis.text(value)}" for epoch, value in points])


def _has_visible_dots(curve: Series) -> bool:
    count, level = len(curve.known), len({y for _, y in curve.known}) == 1
    return count == 1 or (count <= _MAX_VISIBLE_DOTS and not level)


def _fill_between(chart: Chart, curves: Sequence[Series]) -> None:
    """Fill between the first two curves if they have the same epochs."""
    if len(curves) < 2:
        return
    first, second = (dict(curve.known) for curve in curves[:2])
    if len(first) < 2 or list(first) != list(second):
        return
    upper, lower = list(first.values()), list(second.values())
    area = chart.axes.fill_between(list(first), upper, lower, color=COLOURS[curves[0].colour])
    area.set(alpha=0.14, linewidth=0, clip_on=False)
    chart.tag(area, "area")


def _set_epochs(axes: Axes, epochs: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    low, high = min(epochs), max(epochs)
    axes.set_xlabel("epoch")
    if low < high:
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
    else:
        axes.set_xlim(low - 1, low + 1)
        axes.xaxis.set_major_locator(FixedLocator([low]))
    axes.xaxis.set_major_formatter("{x:g}")


def _set_values(axes: Axes, values: Sequence[float], axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = min(values), max(values)
    below, above = high - axis.least_range, low + axis.least_range
    covered = [low, high, *axis.always, max(below, axis.bounds[0]), min(above, axis.bounds[1])]
    locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: axis.tick(value)))
    # From tick to tick, so that no curve leaves the grid.
    ticks = locator.tick_values(min(covered), max(covered))
    axes.set_ylim(ticks[0], ticks[-1])
