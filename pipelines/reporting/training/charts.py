"""Curves as SVG geometry and the confusion matrix as a heat table, for the template to draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.reporting.page import percent

WIDTH, HEIGHT = 520, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 508, 12, 228
_TICKS = 5
_DOTS, _DOTS_SEEN = 120, 30
"""Points of a curve that show their figure when they are pointed at, and so many of them are drawn."""
CLASSES_SHOWN = 21
"""Rows of the heat table: as many as PASCAL VOC has; a wider one does not fit beside the bars."""

Points = list[tuple[float, float | None]]


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: as the legend has it.
        style: its CSS class.
        points: (x, y) with rising x; the curve has a gap where y is None.
    """

    name: str
    style: str
    points: Points


@dataclass(frozen=True)
class Axis:
    """How values are shown: how they are written, and the range that is always in sight."""

    text: Callable[[float], str]
    always: tuple[float, ...] = ()


SHARE = Axis(percent)
WHOLE_SHARE = Axis(percent, (0.0, 1.0))
LOSS = Axis(lambda value: f"{value:.4g}", (0.0,))


@dataclass(frozen=True)
class LineChart:
    """A chart in the coordinates of its viewBox, `WIDTH` x `HEIGHT`.

    Attributes:
        lines: of each curve name, style, SVG path, last value, whether to show its dots, and these with x,
            y and text.
        area: SVG path of the surface between the first two curves; "" for none.
        rows: (y, text) of the grid.
        columns: (x, text) of the ticks.
        mark: x of the best epoch; None outside.
    """

    caption: str
    lines: list[dict[str, Any]]
    rows: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    mark: float | None = None
    area: str = ""
    left: float = field(default=_LEFT, init=False)
    right: float = field(default=_RIGHT, init=False)
    top: float = field(default=_TOP, init=False)
    bottom: float = field(default=_BOTTOM, init=False)


def line_chart(
    caption: str, series: Sequence[Series], axis: Axis, *, best: float | None = None, area: bool = False
) -> LineChart | None:
    """Lay out curves over the epochs; None where no curve has a value.

    Args:
        caption: what is shown.
        series: curves without any value are left out.
        axis: what the values are.
        best: epoch to mark.
        area: fill what lies between the first two curves, where both have all values.
    """
    shown = [one for one in series if any(y is not None for _, y in one.points)]
    if not shown:
        return None
    heights = [y for one in shown for _, y in one.points if y is not None]
    epochs = [x for one in shown for x, _ in one.points]
    ticks = ticks_of([*heights, *axis.always])
    across = scale(min(epochs), max(epochs), _LEFT, _RIGHT)
    up = scale(ticks[0], ticks[-1], _BOTTOM, _TOP)
    return LineChart(
        caption=caption,
        lines=[_line(one, across, up, axis) for one in shown],
        rows=[(up(value), tick_text(value, ticks, axis)) for value in ticks],
        columns=[(across(value), f"{value:g}") for value in _epoch_ticks(epochs)],
        mark=None if best is None else across(best),
        area=_area(shown[:2], across, up) if area and len(shown) > 1 else "",
    )


def _line(
    one: Series, across: Callable[[float], float], up: Callable[[float], float], axis: Axis
) -> dict[str, Any]:
    known = [(x, y) for x, y in one.points if y is not None]
    every = math.ceil(len(known) / _DOTS)
    level = len({y for _, y in known}) == 1
    dots = [(across(x), up(y), f"epoch {x:g}: {one.name} {axis.text(y)}") for x, y in known[::-every][::-1]]
    return {
        "name": one.name,
        "style": one.style,
        "path": " ".join(_path(part, across, up) for part in _unbroken(one.points)),
        "dots": dots,
        "dotted": len(known) == 1 or (len(known) <= _DOTS_SEEN and not level),
        "last": axis.text(known[-1][1]),
    }


def _unbroken(points: Points) -> list[list[tuple[float, float]]]:
    """The stretches between gaps."""
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is not None:
            parts[-1].append((x, y))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _path(
    points: Sequence[tuple[float, float]], across: Callable[[float], float], up: Callable[[float], float]
) -> str:
    return "M" + " L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in points)


def _area(pair: Sequence[Series], across: Callable[[float], float], up: Callable[[float], float]) -> str:
    first, second = ([(x, y) for x, y in one.points if y is not None] for one in pair)
    if len(first) < 2 or [x for x, _ in first] != [x for x, _ in second]:
        return ""
    return f"{_path([*first, *second[::-1]], across, up)} Z"


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Maps low..high to start..end; all to the middle where there is no range."""
    if high <= low:
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks_of(values: Sequence[float]) -> list[float]:
    """Round numbers, about `_TICKS`, from below the least value to above the greatest."""
    low, high = min(values), max(values)
    step = _round_step((high - low) / _TICKS or max(abs(high), 0.01) / _TICKS)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _round_step(size: float) -> float:
    """The least of 1, 2, 5, 10, ... times a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(max(size, 1e-6)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= size * (1 - 1e-9))


def tick_text(value: float, ticks: Sequence[float], axis: Axis) -> str:
    """A value of the axis, with as many digits as its ticks differ in."""
    value = 0.0 if abs(value) < 1e-9 else value
    if axis.text is not percent:
        return f"{value:.6g}"
    digits = max(0, -math.floor(math.log10(100 * (ticks[1] - ticks[0])) + 1e-6))
    return f"{100 * value:.{digits}f}\u00a0%"


def _epoch_ticks(epochs: Sequence[float]) -> list[float]:
    """Round epochs within the run; its only one, where there is but one."""
    low, high = min(epochs), max(epochs)
    if high <= low:
        return [low]
    step = max(1.0, _round_step((high - low) / 8))
    return [i * step for i in range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)]


def heat_table(counts: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Rows of the confusion matrix as shares of the true class, at most `CLASSES_SHOWN` of them.

    Args:
        counts: int64 [C, C], rows truth, columns predictions.
        names: C class names.

    Returns:
        `columns` (names), `rows` of name, pixels and cells, and how many classes are `left_out`: of many,
        those with the most pixels are shown, and a last column sums the others.
    """
    most = np.argsort(-(counts.sum(0) + counts.sum(1)), kind="stable")[:CLASSES_SHOWN]
    shown = sorted(most.tolist())
    left_out = len(names) - len(shown)
    rows = []
    for i in shown:
        row = counts[i, shown].tolist()
        row += [int(counts[i].sum()) - sum(row)] if left_out else []
        rows.append(_heat_row(names[i], shown.index(i), row))
    columns = [names[i] for i in shown] + (["others"] if left_out else [])
    return {"columns": columns, "rows": rows, "left_out": left_out}


def _heat_row(name: str, right: int, row: Sequence[int]) -> dict[str, Any]:
    total = sum(row)
    shares = [value / total if total else 0.0 for value in row]
    cells = [
        {"level": round(100 * share), "text": _cell_text(share), "right": i == right}
        for i, share in enumerate(shares)
    ]
    return {"name": name, "pixels": f"{total:,}", "cells": cells if total else []}


def _cell_text(share: float) -> str:
    """Percent without the sign, 100 for all alone; nothing for what is not worth a look."""
    if share < 0.005:
        return ""
    return "100" if share == 1 else f"{min(round(100 * share), 99)}"
