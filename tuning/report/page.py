"""The page of a search: the best values for each number of masks, and the effect of each key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from segray.pipelines.config.commands.tune import dimensions_of
from segray.pipelines.config.search_space import Dimension
from segray.pipelines.io import storage
from segray.pipelines.printing import visible
from segray.pipelines.reporting.page import config_text, facts, percent, render
from segray.tuning.folder import SearchFolder
from segray.tuning.records import Trial, mean
from segray.tuning.report.charts import Curve, Plot, learning, over_key, over_labels, two_keys
from segray.tuning.report.effects import comparable, importance
from segray.tuning.report.splits import SplitResult, split_results

_MAPPED = ("pseudo.tau", "pseudo.epsilon")


class Bar(TypedDict):
    """A bar of the importance charts."""

    name: str
    length: float
    text: str
    colour: str


@dataclass(frozen=True)
class BarChart:
    """The importance of each key in a split."""

    caption: str
    bars: list[Bar]


@dataclass(frozen=True)
class TrialRow:
    """A row of the table of trials."""

    trial: Trial
    best: bool
    values: list[str]

    @property
    def epochs(self) -> float | None:
        """Mean number of epochs of its runs."""
        return mean([run.epoch for run in self.trial.runs])

    @property
    def reason(self) -> str:
        """Why it stopped, diverged or crashed."""
        return visible(self.trial.reason)


def build(folder: SearchFolder) -> str:
    """The page as HTML."""
    config, dimensions, splits = folder.config, dimensions_of(folder.config), split_results(folder)
    rows = [_trial_row(trial, result, dimensions) for result in splits for trial in result.trials]
    trials = [row.trial for row in rows]
    return render(
        "tuning.html",
        title=visible(storage.display(config.out)),
        splits=splits,
        figures=_figures(splits, trials),
        gain=_points,
        labels=over_labels(_label_curves(splits)),
        keys=_drawn([over_key(dimension, splits) for dimension in dimensions]),
        maps=_drawn(_maps(splits, dimensions)),
        curves=_drawn([learning(result) for result in splits]),
        importance=[_importance(result, dimensions) for result in splits],
        names=[dimension.key for dimension in dimensions],
        rows=rows,
        crashed=[(trial.file, visible(trial.reason)) for trial in trials if trial.state == "crashed"],
        unfinished=sum(trial.state == "running" for trial in trials),
        finals=config.search.finalists if config.search.final_seeds else 0,
        is_builtin=config.network.name == "builtin",
        facts=facts({"space": _ranges(folder), "search": _search_facts(folder)}, "search"),
        config_text=config_text(config.out),
    )


def _drawn(plots: Sequence[Plot | None]) -> list[Plot]:
    return [plot for plot in plots if plot is not None]


def _points(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{100 * (after - before):+.1f}"


def _figures(splits: Sequence[SplitResult], trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """(figure, label) of the row of cards."""
    figures = [(f"{len(trials)}", f"trials in {len(splits)} split{'s' * (len(splits) != 1)}")]
    figures.append((f"{sum(trial.state == 'stopped' for trial in trials)}", "stopped early as weak"))
    scored = [result for result in splits if result.miou is not None]
    if scored:
        top = max(scored, key=lambda result: result.miou or 0.0)
        figures.append((percent(top.miou), f"best mean IoU, with {top.labelled} masks"))
    gains = [
        result.unseen - result.baseline_unseen
        for result in splits
        if result.unseen is not None and result.baseline_unseen is not None
    ]
    if gains:
        figures.append((f"{100 * (mean(gains) or 0):+.1f}", "points over the baseline on unseen seeds, mean"))
    return figures


def _label_curves(splits: Sequence[SplitResult]) -> list[Curve]:
    curves = [
        Curve("best trial", "series-0", "-", []),
        Curve("baseline", "series-1", "-", []),
        Curve("best trial, unseen seeds (dotted)", "series-0", ":", []),
        Curve("baseline, unseen seeds (dotted)", "series-1", ":", []),
        Curve("zero-shot labels (dashed)", "muted", "--", []),
    ]
    for result in sorted(splits, key=lambda result: result.labelled or 0):
        if result.labelled and result.best:
            zero_shot = result.best.runs[0].zero_shot
            scores = [result.miou, result.baseline_miou, result.unseen, result.baseline_unseen, zero_shot]
            for curve, score in zip(curves, scores, strict=True):
                curve.points.extend([] if score is None else [(result.labelled, score)])
    return curves


def _maps(splits: Sequence[SplitResult], dimensions: Sequence[Dimension]) -> list[Plot | None]:
    """tau x epsilon, or the first two ranges, split by split."""
    ranges = [dimension for dimension in dimensions if not dimension.listed]
    ranges.sort(key=lambda dimension: (*_MAPPED, dimension.key).index(dimension.key))
    if len(ranges) < 2:
        return []
    return [two_keys(result, ranges[0], ranges[1], comparable(result.trials)) for result in splits]


def _importance(result: SplitResult, dimensions: Sequence[Dimension]) -> BarChart:
    """Bars of a split, the most important key first."""
    known = comparable(result.trials)
    shares = [(dimension.key, importance(dimension, result.trials, known.scores)) for dimension in dimensions]
    shares.sort(key=lambda pair: -(pair[1] or 0.0))
    bars: list[Bar] = [
        {
            "name": key.rpartition(".")[2],
            "length": share or 0.0,
            "text": percent(share),
            "colour": f"var(--{result.colour})",
        }
        for key, share in shares
    ]
    when = "" if known.epoch is None else f", at epoch {known.epoch:g}"
    return BarChart(f"data.labelled={result.split}{when}", bars)


def _trial_row(trial: Trial, result: SplitResult, dimensions: Sequence[Dimension]) -> TrialRow:
    values = [visible(trial.values.get(dimension.key, "")) for dimension in dimensions]
    return TrialRow(trial, trial is result.best, values)


def _ranges(folder: SearchFolder) -> dict[str, str]:
    return {key: visible(text) for key, text in folder.config.space.items() if text is not None}


def _search_facts(folder: SearchFolder) -> dict[str, object]:
    config = folder.config
    values = config.search.model_dump(mode="json", exclude={"keep_weights", "concurrent"})
    return {**values, "method": config.method, "network": config.network.name, "epochs": config.train.epochs}
