"""The plots of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from segray.pipelines.config.search_space import Dimension
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.charts import COLOURS, Chart
from segray.pipelines.reporting.page import percent
from segray.tuning.records import Trial
from segray.tuning.report.effects import Comparable, position, smooth_map
from segray.tuning.report.splits import SplitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAP_COLUMNS, _MAP_ROWS, _REACH = 24, 16, 0.12
_LONGEST_TICK = 12


@dataclass(frozen=True)
class Plot:
    """A plot for the page.

    Attributes:
        svg: the `<svg>` element.
        across: quantity of the x axis.
        up: quantity of the y axis, where it is not the mean IoU.
        legend: (colour, name, value).
        scale: (text of the minimum, of the maximum) of the map's colours.
    """

    caption: str
    svg: Markup
    across: str
    up: str = ""
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    scale: tuple[str, str] | None = None


@dataclass(frozen=True)
class Curve:
    """One curve of the plot over the number of masks.

    Attributes:
        colour: name in `COLOURS`.
        dashes: matplotlib's line style.
        points: (masks, mIoU).
    """

    name: str
    colour: str
    dashes: str
    points: list[tuple[int, float]]


def over_key(dimension: Dimension, splits: Sequence[SplitResult]) -> Plot | None:
    """mIoU over one key, all splits in one plot; None if no trial has a score."""
    caption = f"Mean IoU over {dimension.key}"
    chart, count = Chart(caption), 0
    with chart.style():
        _percent_axis(chart.axes)
        for result in splits:
            trials = [trial for trial in result.trials if _has_point(dimension, trial)]
            count += len(trials)
            points = [(_coordinate(dimension, trial), trial.score or 0.0) for trial in trials]
            _draw_trials(chart, result, trials, points, lambda trial: _tip(trial, trial.score))
        _key_axis(chart.axes, dimension)
    if not count:
        return None
    legend = [
        (
            result.colour,
            f"data.labelled={result.split}",
            result.best.values.get(dimension.key, "") if result.best else "-",
        )
        for result in splits
    ]
    return Plot(caption, chart.svg(), _leaf(dimension), legend=legend)


def two_keys(result: SplitResult, x: Dimension, y: Dimension, known: Comparable) -> Plot | None:
    """The map of two ranges in one split; None for fewer than three trials.

    Between the trials the colour is a smooth mean of theirs.
    """
    trials = [
        trial
        for trial in result.trials
        if trial.file in known.scores and _inside(x, trial) and _inside(y, trial)
    ]
    if len(trials) < 3:
        return None
    scores = [known.scores[trial.file] for trial in trials]
    when = "" if known.epoch is None else f" at epoch {known.epoch:g}"
    caption = f"Mean IoU{when}, data.labelled={result.split}"
    chart = Chart(caption)
    with chart.style():
        _draw_map(chart, result, (x, y), trials, scores)
    scale = (percent(min(scores)), percent(max(scores)))
    return Plot(caption, chart.svg(), _leaf(x), up=_leaf(y), scale=scale)


def over_labels(curves: Sequence[Curve]) -> Plot | None:
    """mIoU over the number of masks, on a logarithmic axis; None without a point."""
    drawn = [curve for curve in curves if curve.points]
    if not drawn:
        return None
    caption = "Mean IoU against the number of masks"
    chart = Chart(caption)
    with chart.style():
        _percent_axis(chart.axes)
        chart.axes.set_xscale("log")
        counts = sorted({masks for curve in drawn for masks, _ in curve.points})
        chart.axes.set_xticks(counts, [str(count) for count in counts], minor=False)
        chart.axes.set_xticks([], minor=True)
        for curve in drawn:
            _draw_curve(chart, curve)
    legend = [(curve.colour, curve.name, percent(curve.points[-1][1])) for curve in drawn]
    return Plot(caption, chart.svg(), "masks", legend=legend)


def learning(result: SplitResult) -> Plot | None:
    """The curves of a split's trials over the epochs; None if nothing was validated."""
    trials = [trial for trial in result.trials if trial.runs]
    if not trials:
        return None
    caption = f"Learning curves, data.labelled={result.split}"
    chart, colour = Chart(caption), COLOURS[result.colour]
    with chart.style():
        _percent_axis(chart.axes)
        for trial in trials:
            width, alpha = (3.0, 1.0) if trial is result.best else (1.3, 0.25 if _is_cut(trial) else 0.6)
            style = ":" if trial.number == 0 else "-"
            chart.axes.plot(*zip(*trial.runs[0].curve, strict=True), style, c=colour, lw=width, alpha=alpha)
        ends = [trial.runs[0].curve[-1] for trial in trials]
        _draw_trials(chart, result, trials, ends, lambda trial: _tip(trial, trial.runs[0].miou))
    return Plot(caption, chart.svg(), "epoch")


def _draw_trials(
    chart: Chart,
    result: SplitResult,
    trials: Sequence[Trial],
    points: Sequence[tuple[float, float]],
    tip: Callable[[Trial], str],
) -> None:
    """A dot per trial: stopped trials are pale, the baseline is a ring, the best has an outline."""
    if not trials:
        return
    from matplotlib.colors import to_rgba

    colour = COLOURS[result.colour]
    faces = [COLOURS["card"] if trial.number == 0 else colour for trial in trials]
    alphas = [0.28 if _is_cut(trial) else 1.0 for trial in trials]
    dots = chart.axes.scatter(
        [x for x, _ in points],
        [y for _, y in points],
        s=[90 if trial is result.best else 45 for trial in trials],
        c=[to_rgba(face, alpha) for face, alpha in zip(faces, alphas, strict=True)],
        edgecolors=[COLOURS["ink"] if trial is result.best else colour for trial in trials],
        linewidths=[2.4 if trial is result.best or trial.number == 0 else 0.5 for trial in trials],
        clip_on=False,
        zorder=3,
    )
    chart.tag(dots, "trials", [tip(trial) for trial in trials])


def _draw_map(
    chart: Chart,
    result: SplitResult,
    pair: tuple[Dimension, Dimension],
    trials: Sequence[Trial],
    scores: Sequence[float],
) -> None:
    from matplotlib.colors import ListedColormap, Normalize

    x, y = pair
    colours = ListedColormap(thumbnails.ramp() / 255.0)
    places = [(position(x, trial) or 0.0, position(y, trial) or 0.0) for trial in trials]
    cells = smooth_map(places, scores, _MAP_COLUMNS, _MAP_ROWS, _REACH)
    norm = Normalize(min(scores), max(scores))
    chart.axes.grid(visible=False)
    chart.axes.pcolormesh(
        _edges(x, _MAP_COLUMNS),
        _edges(y, _MAP_ROWS),
        cells,
        alpha=0.6,
        cmap=colours,
        norm=norm,
        rasterized=True,
    )
    dots = chart.axes.scatter(
        [_coordinate(x, trial) for trial in trials],
        [_coordinate(y, trial) for trial in trials],
        c=list(scores),
        cmap=colours,
        norm=norm,
        s=[90 if trial is result.best else 45 for trial in trials],
        edgecolors=[_map_edge(trial, result) for trial in trials],
        linewidths=[2.4 if trial is result.best or trial.number == 0 else 1.2 for trial in trials],
        clip_on=False,
        zorder=3,
    )
    tips = [_tip(trial, score) for trial, score in zip(trials, scores, strict=True)]
    chart.tag(dots, "trials", tips)
    for dimension, set_scale in ((x, chart.axes.set_xscale), (y, chart.axes.set_yscale)):
        if dimension.kind == "loguniform":
            set_scale("log")


def _map_edge(trial: Trial, result: SplitResult) -> str:
    if trial is result.best:
        return COLOURS["ink"]
    return COLOURS["series-1"] if trial.number == 0 else COLOURS["card"]


def _draw_curve(chart: Chart, curve: Curve) -> None:
    masks, mious = zip(*curve.points, strict=True)
    colour = COLOURS[curve.colour]
    chart.axes.plot(masks, mious, linestyle=curve.dashes, color=colour, linewidth=2)
    dots = chart.axes.scatter(masks, mious, color=colour, s=30, clip_on=False, zorder=3)
    tips = [f"{curve.name}, {count} masks: {percent(miou)}" for count, miou in curve.points]
    chart.tag(dots, "points", tips)


def _key_axis(axes: Axes, dimension: Dimension) -> None:
    if dimension.listed:
        axes.set_xticks(range(len(dimension.values)), [_short(value) for value in dimension.values])
        axes.set_xlim(-0.5, len(dimension.values) - 0.5)
    elif dimension.kind == "loguniform":
        axes.set_xscale("log")


def _percent_axis(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _edges(dimension: Dimension, cells: int) -> NDArray[np.float64]:
    space = np.geomspace if dimension.kind == "loguniform" else np.linspace
    edges: NDArray[np.float64] = space(dimension.low, dimension.high, cells + 1)
    return edges


def _coordinate(dimension: Dimension, trial: Trial) -> float:
    """The value itself, or its index in the list."""
    written = trial.values[dimension.key]
    return float(dimension.values.index(written) if dimension.listed else written)


def _has_point(dimension: Dimension, trial: Trial) -> bool:
    return trial.score is not None and position(dimension, trial) is not None


def _inside(dimension: Dimension, trial: Trial) -> bool:
    place = position(dimension, trial)
    return place is not None and 0 <= place <= 1


def _is_cut(trial: Trial) -> bool:
    return trial.state != "done"


def _tip(trial: Trial, score: float | None) -> str:
    """What a dot shows when it is pointed at."""
    values = ", ".join(f"{key} {value}" for key, value in trial.values.items())
    stopped = f", stopped at epoch {trial.runs[0].epoch:g}" if trial.state == "stopped" and trial.runs else ""
    name = f"{trial.file} (baseline)" if trial.number == 0 else trial.file
    return f"{name}: {percent(score)}{stopped}; {values}"


def _leaf(dimension: Dimension) -> str:
    return dimension.key.rpartition(".")[2]


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST_TICK else f"...{value[2 - _LONGEST_TICK :]}"
