"""The search's plots as SVG geometry, for the template to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segray.pipelines.config.search_space import Dimension, text
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.page import percent
from segray.pipelines.reporting.training.charts import SHARE, scale, tick_text, ticks_of
from segray.tuning.effects import Comparable, position, smooth_map
from segray.tuning.ledger import Trial

LEFT, RIGHT, TOP, BOTTOM = 56.0, 508.0, 12.0, 228.0
_MAP_COLUMNS, _MAP_ROWS, _REACH = 24, 16, 0.12
_MARGIN = 0.04
"""Share of the width that dots keep from the sides."""


@dataclass(frozen=True)
class Dot:
    """A trial: its place, its looks (CSS classes), what it tells when it is pointed at, and its fill."""

    x: float
    y: float
    style: str
    text: str
    fill: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot in the coordinates of its viewBox, 520 x 260.

    Attributes:
        across: what x is.
        rows: (y, text) of the grid.
        columns: (x, text) of the ticks.
        paths: (CSS class, SVG path).
        cells: (x, y, width, height, colour) below all else.
        legend: (CSS class, name, value).
        scale: (text of the least, of the greatest) that the colours stand for.
    """

    caption: str
    across: str
    rows: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    dots: list[Dot] = field(default_factory=list)
    paths: list[tuple[str, str]] = field(default_factory=list)
    cells: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    up: str = ""
    scale: tuple[str, str] | None = None
    note: str = ""


def tell(trial: Trial, score: float | None) -> str:
    """What a dot says."""
    values = ", ".join(f"{key} {value}" for key, value in trial.values.items())
    stopped = f", stopped at epoch {trial.runs[0].epoch:g}" if trial.state == "stopped" and trial.runs else ""
    name = f"{trial.file} (as it stands)" if trial.number == 0 else trial.file
    return f"{name}: {percent(score)}{stopped}; {values}"


def over_key(
    dimension: Dimension, families: Mapping[str, tuple[str, list[Trial], Trial | None]]
) -> Plot | None:
    """mIoU over one key, all splits in one plot; None where nothing was scored.

    Args:
        dimension: the key.
        families: by split, its CSS class, its trials and the best of them.
    """
    scored = [
        (style, one, one is best)
        for style, trials, best in families.values()
        for one in trials
        if one.score is not None and position(dimension, one) is not None
    ]
    if not scored:
        return None
    ticks = ticks_of([one.score or 0.0 for _, one, _ in scored])
    up = scale(ticks[0], ticks[-1], BOTTOM, TOP)
    across = _across(dimension, [one for _, one, _ in scored])
    dots = [
        Dot(
            across(position(dimension, one) or 0.0),
            up(one.score or 0.0),
            _looks(style, one, best),
            tell(one, one.score),
        )
        for style, one, best in sorted(scored, key=lambda entry: entry[2])
    ]
    return Plot(
        f"Mean IoU over {dimension.key}",
        dimension.key.rpartition(".")[2],
        rows=[(up(value), tick_text(value, ticks, SHARE)) for value in ticks],
        columns=_columns(dimension, across),
        dots=dots,
        legend=[
            (style, f"data.labelled={split}", best.values.get(dimension.key, "") if best else "-")
            for split, (style, _, best) in families.items()
        ],
    )


def _looks(style: str, trial: Trial, best: bool) -> str:
    marks = [style]
    marks += ["stopped"] if trial.state != "done" else []
    marks += ["standing"] if trial.number == 0 else []
    return " ".join([*marks, "best"] if best else marks)


def _across(dimension: Dimension, trials: Sequence[Trial]) -> Any:
    """Positions to x; the range is widened where the configuration as it stands lies outside of it."""
    places = [position(dimension, one) or 0.0 for one in trials]
    low, high = min(0.0, *places), max(1.0, *places)
    margin = _MARGIN * (RIGHT - LEFT)
    return scale(low, high, LEFT + margin, RIGHT - margin)


def _columns(dimension: Dimension, across: Any) -> list[tuple[float, str]]:
    if dimension.listed:
        count = len(dimension.values)
        return [(across((i + 0.5) / count), _short(value)) for i, value in enumerate(dimension.values)]
    low, high = dimension.low, dimension.high
    if dimension.kind == "loguniform":
        inner = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        values = [10.0**power for power in inner] if len(inner) > 1 else [low, high]
        width = math.log(high / low)
        return [(across(math.log(value / low) / width), f"{value:g}") for value in values]
    inside = [value for value in ticks_of([low, high]) if low - 1e-9 <= value <= high + 1e-9]
    return [(across((value - low) / (high - low)), text(float(f"{value:.6g}"))) for value in inside]


def _short(value: str) -> str:
    return value if len(value) <= 12 else f"...{value[-10:]}"


def two_keys(
    split: str,
    pair: tuple[Dimension, Dimension],
    trials: Sequence[Trial],
    known: Comparable,
    best: Trial | None,
) -> Plot | None:
    """The map of two ranges in one split: colours between the trials are a smooth mean of theirs."""
    first, second = pair
    used = [
        one for one in trials if one.file in known.scores and _inside(first, one) and _inside(second, one)
    ]
    if len(used) < 3:
        return None
    scores = [known.scores[one.file] for one in used]
    points = [(position(first, one) or 0.0, position(second, one) or 0.0) for one in used]
    low, high = min(scores), max(scores)
    colours = thumbnails.ramp()

    def colour(score: float) -> str:
        return "#" + bytes(colours[round(255 * (score - low) / ((high - low) or 1.0))]).hex()

    across, up = scale(0, 1, LEFT, RIGHT), scale(0, 1, BOTTOM, TOP)
    smooth = smooth_map(points, scores, _MAP_COLUMNS, _MAP_ROWS, _REACH)
    width, height = (RIGHT - LEFT) / _MAP_COLUMNS, (BOTTOM - TOP) / _MAP_ROWS
    dots = [
        Dot(across(x), up(y), _looks("", one, one is best), tell(one, score), colour(score))
        for one, (x, y), score in zip(used, points, scores, strict=True)
    ]
    when = "" if known.epoch is None else f" at epoch {known.epoch:g}"
    return Plot(
        f"Mean IoU{when}, data.labelled={split}",
        first.key.rpartition(".")[2],
        rows=_columns(second, up),
        columns=_columns(first, across),
        dots=dots,
        cells=[
            (
                LEFT + i * width,
                BOTTOM - (j + 1) * height,
                width + 0.5,
                height + 0.5,
                colour(float(smooth[j, i])),
            )
            for j in range(_MAP_ROWS)
            for i in range(_MAP_COLUMNS)
        ],
        up=second.key.rpartition(".")[2],
        scale=(percent(low), percent(high)),
    )


def _inside(dimension: Dimension, trial: Trial) -> bool:
    place = position(dimension, trial)
    return place is not None and 0 <= place <= 1


def over_labels(curves: Sequence[tuple[str, str, Sequence[tuple[int, float | None]]]]) -> Plot | None:
    """mIoU against the number of masks, on a logarithmic axis.

    Args:
        curves: (CSS class, name, points (masks, mIoU)).
    """
    shown = [(style, name, [(n, y) for n, y in points if y is not None]) for style, name, points in curves]
    shown = [one for one in shown if one[2]]
    counts = sorted({n for _, _, points in shown for n, _ in points})
    if not counts:
        return None
    ticks = ticks_of([y for _, _, points in shown for _, y in points])
    up = scale(ticks[0], ticks[-1], BOTTOM, TOP)
    margin = _MARGIN * (RIGHT - LEFT)
    log = scale(math.log(counts[0]), math.log(counts[-1]), LEFT + margin, RIGHT - margin)
    dots, paths = [], []
    for style, name, points in shown:
        places = [(log(math.log(n)), up(y)) for n, y in points]
        paths.append((style, "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)))
        dots += [
            Dot(x, y, style, f"{name}, {n} masks: {percent(miou)}")
            for (x, y), (n, miou) in zip(places, points, strict=True)
        ]
    return Plot(
        "Mean IoU against the number of masks",
        "masks",
        rows=[(up(value), tick_text(value, ticks, SHARE)) for value in ticks],
        columns=[(log(math.log(n)), str(n)) for n in counts],
        dots=dots,
        paths=paths,
        legend=[(style, name, percent(points[-1][1])) for style, name, points in shown],
    )


def learning(split: str, style: str, trials: Sequence[Trial], best: Trial | None) -> Plot | None:
    """The curves of a split's trials over the epochs; those that were stopped end early."""
    drawn = [one for one in trials if one.runs]
    if not drawn:
        return None
    ticks = ticks_of([miou for one in drawn for _, miou in one.runs[0].curve])
    up = scale(ticks[0], ticks[-1], BOTTOM, TOP)
    epochs = max(one.runs[0].epoch for one in drawn)
    across = scale(0, epochs, LEFT, RIGHT)
    paths, dots = [], []
    for one in sorted(drawn, key=lambda trial: (trial is best, trial.number == 0)):
        places = [(across(epoch), up(miou)) for epoch, miou in one.runs[0].curve]
        looks = _looks(style, one, one is best)
        paths.append((looks, "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)))
        dots.append(Dot(*places[-1], looks, tell(one, one.runs[0].miou)))
    inner = [value for value in ticks_of([0, epochs]) if value <= epochs]
    return Plot(
        f"Learning curves, data.labelled={split}",
        "epoch",
        rows=[(up(value), tick_text(value, ticks, SHARE)) for value in ticks],
        columns=[(across(value), f"{value:g}") for value in inner],
        dots=dots,
        paths=paths,
    )
