"""The plots of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from segray.pipelines.config.search_space import Dimension
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.charts import COLOURS, Chart
from segray.pipelines.reporting.page import percent
from segray.tuning.records import Trial
from segray.tuning.report.effects import comparable, position, smooth_map
from segray.tuning.report.splits import SplitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAP_COLUMNS, _MAP_ROWS, _REACH = 24, 16, 0.12
_LONGEST_TICK = 12
_CURVES = (
    ("best trial", "miou", "series-0", "-"),
    ("baseline", "default_miou", "series-1", "-"),
    ("best trial, unseen seeds (dotted)", "held_out_miou", "series-0", ":"),
    ("baseline, unseen seeds (dotted)", "held_out_default_miou", "series-1", ":"),
    ("zero-shot labels (dashed)", "zero_shot", "muted", "--"),
)
"""Name, figure of a split, colour and line style of the curves over the number of masks."""


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


def over_key(dimension: Dimension, splits: Sequence[SplitResult]) -> Plot | None:
    """mIoU over one key, all splits in one plot; None if no trial has a score."""
    caption = f"Mean IoU over {dimension.key}"
    chart, count, legend = Chart(caption), 0, []
    with chart.style():
        _percent_axis(chart.axes)
        for result in splits:
            trials = [t for t in result.trials if t.runs and position(dimension, t) is not None]
            count += len(trials)
            x = [_coordinate(dimension, trial) for trial in trials]
            _draw_trials(chart, result, trials, x, [trial.score or 0.0 for trial in trials])
            best = result.best.values.get(dimension.key, "") if result.best else "-"
            legend.append((result.colour, f"data.labelled={result.split}", best))
        _key_axis(chart.axes, dimension)
    return Plot(caption, chart.svg(), _leaf(dimension), legend=legend) if count else None


def two_keys(result: SplitResult, x: Dimension, y: Dimension) -> Plot | None:
    """The map of two ranges in one split; None for fewer than three trials.

    Between the trials the colour is a smooth mean of theirs.
    """
    known = comparable(result.trials)
    trials = [t for t in result.trials if t.file in known.scores and _inside(x, t) and _inside(y, t)]
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


def over_labels(splits: Sequence[SplitResult]) -> Plot | None:
    """mIoU over the number of masks, on a logarithmic axis; None without a point."""
    masks = {result.split: result.labelled for result in splits if result.labelled and result.best}
    if not masks:
        return None
    caption = "Mean IoU against the number of masks"
    chart, legend = Chart(caption), []
    with chart.style():
        _percent_axis(chart.axes)
        chart.axes.set_xscale("log")
        counts = sorted(set(masks.values()))
        chart.axes.set_xticks(counts, [str(count) for count in counts], minor=False)
        chart.axes.set_xticks([], minor=True)
        for name, figure, colour, dashes in _CURVES:
            mious = {
                masks[result.split]: getattr(result, figure) for result in splits if result.split in masks
            }
            points = [(count, miou) for count, miou in sorted(mious.items()) if miou is not None]
            if points:
                _draw_curve(chart, name, COLOURS[colour], dashes, points)
                legend.append((colour, name, percent(points[-1][1])))
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
            width, alpha = (
                (3.0, 1.0) if trial is result.best else (1.3, 0.6 if trial.state == "done" else 0.25)
            )
            style = ":" if trial.number == 0 else "-"
            chart.axes.plot(*zip(*trial.runs[0].curve, strict=True), style, c=colour, lw=width, alpha=alpha)
        epochs, mious = zip(*(trial.runs[0].curve[-1] for trial in trials), strict=True)
        _draw_trials(chart, result, trials, epochs, mious)
    return Plot(caption, chart.svg(), "epoch")


def _draw_trials(
    chart: Chart, result: SplitResult, trials: Sequence[Trial], x: Sequence[float], y: Sequence[float]
) -> None:
    """A dot per trial: stopped trials are pale, the baseline is a ring, the best has an outline."""
    from matplotlib.colors import to_rgba_array

    faces = [COLOURS["card" if trial.number == 0 else result.colour] for trial in trials]
    fills = to_rgba_array(faces, [1.0 if trial.state == "done" else 0.28 for trial in trials])
    _draw_dots(chart, result, trials, (x, y), fills, COLOURS[result.colour], y)


def _draw_map(
    chart: Chart,
    result: SplitResult,
    pair: tuple[Dimension, Dimension],
    trials: Sequence[Trial],
    scores: Sequence[float],
) -> None:
    from matplotlib.colors import ListedColormap, Normalize

    colours, norm = ListedColormap(thumbnails.ramp() / 255.0), Normalize(min(scores), max(scores))
    chart.axes.grid(visible=False)
    places = [[position(dimension, trial) or 0.0 for trial in trials] for dimension in pair]
    cells = smooth_map(list(zip(*places, strict=True)), scores, _MAP_COLUMNS, _MAP_ROWS, _REACH)
    edges = _edges(pair[0], _MAP_COLUMNS), _edges(pair[1], _MAP_ROWS)
    chart.axes.pcolormesh(*edges, cells, alpha=0.6, cmap=colours, norm=norm, rasterized=True)
    across, up = ([_coordinate(dimension, trial) for trial in trials] for dimension in pair)
    _draw_dots(chart, result, trials, (across, up), colours(norm(scores)), COLOURS["card"], scores)
    for dimension, set_scale in zip(pair, (chart.axes.set_xscale, chart.axes.set_yscale), strict=True):
        set_scale("log" if dimension.kind == "loguniform" else "linear")


def _draw_dots(
    chart: Chart,
    result: SplitResult,
    trials: Sequence[Trial],
    points: tuple[Sequence[float], Sequence[float]],
    fills: ArrayLike,
    edge: str,
    scores: Sequence[float],
) -> None:
    """Dots with tips; the outlines of the baseline and the best differ from the others' edge."""
    special = [trial is result.best or trial.number == 0 for trial in trials]
    outlines = [COLOURS["ink" if trial is result.best else result.colour] for trial in trials]
    dots = chart.axes.scatter(
        *points,
        s=[90 if trial is result.best else 45 for trial in trials],
        c=fills,
        edgecolors=[
            colour if is_special else edge for colour, is_special in zip(outlines, special, strict=True)
        ],
        linewidths=[2.4 if is_special else 1.0 for is_special in special],
        clip_on=False,
        zorder=3,
    )
    chart.tag(dots, "trials", [_tip(trial, score) for trial, score in zip(trials, scores, strict=True)])


def _draw_curve(
    chart: Chart, name: str, colour: str, dashes: str, points: Sequence[tuple[int, float]]
) -> None:
    masks, mious = zip(*points, strict=True)
    chart.axes.plot(masks, mious, linestyle=dashes, color=colour, linewidth=2)
    dots = chart.axes.scatter(masks, mious, color=colour, s=30, clip_on=False, zorder=3)
    chart.tag(dots, "points", [f"{name}, {count} masks: {percent(miou)}" for count, miou in points])


def _key_axis(axes: Axes, dimension: Dimension) -> None:
    if dimension.listed:
        texts = [v if len(v) <= _LONGEST_TICK else f"...{v[2 - _LONGEST_TICK :]}" for v in dimension.values]
        axes.set_xticks(range(len(texts)), texts)
        axes.set_xlim(-0.5, len(texts) - 0.5)
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


def _inside(dimension: Dimension, trial: Trial) -> bool:
    place = position(dimension, trial)
    return place is not None and 0 <= place <= 1


def _tip(trial: Trial, score: float) -> str:
    """What a dot shows when it is pointed at."""
    values = ", ".join(f"{key} {value}" for key, value in trial.values.items())
    stopped = f", stopped at epoch {trial.runs[0].epoch:g}" if trial.state == "stopped" and trial.runs else ""
    name = f"{trial.file} (baseline)" if trial.number == 0 else trial.file
    return f"{name}: {percent(score)}{stopped}; {values}"


def _leaf(dimension: Dimension) -> str:
    return dimension.key.rpartition(".")[2]
