"""What the trials of a split say of each key: comparable scores, importance, and a smooth map of two keys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.config.search_space import Dimension
from segray.tuning.ledger import Trial
from segray.tuning.space import as_number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparable:
    """Scores of a split's trials that may be set beside one another.

    Attributes:
        epoch: the last one that every trial reached; None where all ran to the end.
        scores: mIoU there by the trial's file.
    """

    epoch: float | None
    scores: Mapping[str, float]


def comparable(trials: Sequence[Trial]) -> Comparable:
    """Final scores; where trials were stopped, what all of them had at the last epoch that all reached.

    To leave the stopped ones out would hide just those values that do badly.
    """
    known = [one for one in trials if one.state in ("done", "stopped") and one.runs]
    if all(one.state == "done" for one in known):
        return Comparable(None, {one.file: one.score or 0.0 for one in known})
    epoch = min(one.runs[0].epoch for one in known)
    return Comparable(epoch, {one.file: _at(one, epoch) for one in known})


def _at(trial: Trial, epoch: float) -> float:
    return [miou for passed, miou in trial.runs[0].curve if passed <= epoch + 1e-6][-1]


def importance(dimension: Dimension, trials: Sequence[Trial], scores: Mapping[str, float]) -> float | None:
    """Share of the scores' variance that this key alone explains: adjusted R^2, at least 0.

    The model is a parabola over a range (its logarithm for loguniform), and a mean for each listed value.

    Returns:
        None where there are too few trials to say.
    """
    used = [one for one in trials if one.file in scores and _place(dimension, one) is not None]
    y = np.array([scores[one.file] for one in used])
    design = _design(dimension, used)
    free = len(used) - design.shape[1]
    if free < 2 or float(y.std()) < 1e-9:
        return None
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    unexplained = float(((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    return max(0.0, 1 - unexplained * (len(used) - 1) / free)


def _design(dimension: Dimension, trials: Sequence[Trial]) -> Floats:
    if dimension.listed:
        present = sorted({one.values[dimension.key] for one in trials})
        rows = [[float(one.values[dimension.key] == value) for value in present] for one in trials]
        return np.array(rows).reshape(len(trials), len(present))
    x = np.array([position(dimension, one) or 0.0 for one in trials])
    return np.stack([np.ones_like(x), x, x * x], axis=1)


def _place(dimension: Dimension, trial: Trial) -> float | str | None:
    return trial.values.get(dimension.key) if dimension.listed else position(dimension, trial)


def position(dimension: Dimension, trial: Trial) -> float | None:
    """Where a trial's value is on the key's axis, 0 at the range's low end and 1 at its high end.

    Values of a list stand evenly, in the order in which they are listed. The configuration as it stands may
    lie outside.
    """
    written = trial.values.get(dimension.key, "")
    if dimension.listed:
        values = dimension.values
        return (values.index(written) + 0.5) / len(values) if written in values else None
    value = as_number(written)
    if value is None or (dimension.kind == "loguniform" and value <= 0):
        return None
    low, high = dimension.low, dimension.high
    if dimension.kind == "loguniform":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def smooth_map(
    points: Sequence[tuple[float, float]], scores: Sequence[float], columns: int, rows: int, reach: float
) -> Floats:
    """A weighted mean of the scores around each cell's centre.

    Args:
        points: (x, y) of the trials in [0, 1].
        scores: theirs.
        columns: cells across.
        rows: cells up.
        reach: standard deviation of the Gaussian weights.

    Returns:
        float64 [rows, columns], the first row at y = 0.
    """
    across = (np.arange(columns) + 0.5) / columns
    up = (np.arange(rows) + 0.5) / rows
    at = np.array(points).reshape(-1, 2)
    distance = (across[None, :, None] - at[:, 0]) ** 2 + (up[:, None, None] - at[:, 1]) ** 2
    nearest = distance.min(-1, keepdims=True)
    # Far from all trials the nearest one speaks, rather than 0 divided by 0.
    weights = np.exp(-(distance - nearest) / (2 * reach**2))
    smoothed: Floats = (weights * np.array(scores)).sum(-1) / weights.sum(-1)
    return smoothed
