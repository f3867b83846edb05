"""The page of a search: the best values for each number of masks, and the effect of each key."""

from __future__ import annotations

from collections.abc import Sequence

from segray.pipelines.config.commands.tune import dimensions_of
from segray.pipelines.config.search_space import Dimension
from segray.pipelines.io import storage
from segray.pipelines.printing import visible
from segray.pipelines.reporting.page import Bar, config_text, facts, percent, render
from segray.tuning.folder import SearchFolder
from segray.tuning.records import Trial, mean
from segray.tuning.report.charts import Plot, learning, over_key, over_labels, two_keys
from segray.tuning.report.effects import comparable, importance
from segray.tuning.report.splits import SplitResult

_MAPPED = ("pseudo.tau", "pseudo.epsilon")


def build(folder: SearchFolder, splits: Sequence[SplitResult]) -> str:
    """The page as HTML."""
    config, dimensions = folder.config, dimensions_of(folder.config)
    trials = [trial for result in splits for trial in result.trials]
    search = config.search.model_dump(mode="json", exclude={"keep_weights", "concurrent"})
    search |= {"method": config.method, "network": config.network.name, "epochs": config.train.epochs}
    space = {key: visible(text) for key, text in config.space.items() if text is not None}
    return render(
        "tuning.html",
        title=visible(storage.display(config.out)),
        splits=splits,
        figures=_figures(splits, trials),
        gain=_points,
        labels=over_labels(splits),
        keys=_drawn([over_key(dimension, splits) for dimension in dimensions]),
        maps=_drawn(_maps(splits, dimensions)),
        curves=_drawn([learning(result) for result in splits]),
        importance=[_importance(result, dimensions) for result in splits],
        names=[dimension.key for dimension in dimensions],
        trials=trials,
        best=[result.best for result in splits],
        visible=visible,
        crashed=[trial for trial in trials if trial.state == "crashed"],
        unfinished=sum(trial.state == "running" for trial in trials),
        finals=config.search.finalists if config.search.final_seeds else 0,
        is_builtin=config.network.name == "builtin",
        facts=facts({"space": space, "search": search}, "search"),
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
    if scored := [result for result in splits if result.miou is not None]:
        top = max(scored, key=lambda result: result.miou or 0.0)
        figures.append((percent(top.miou), f"best mean IoU, with {top.labelled} masks"))
    gain = mean(
        result.held_out_miou - result.held_out_default_miou
        for result in splits
        if result.held_out_miou is not None and result.held_out_default_miou is not None
    )
    if gain is not None:
        figures.append((f"{100 * gain:+.1f}", "points over the baseline on unseen seeds, mean"))
    return figures


def _maps(splits: Sequence[SplitResult], dimensions: Sequence[Dimension]) -> list[Plot | None]:
    """tau x epsilon, or the first two ranges, split by split."""
    ranges = [dimension for dimension in dimensions if not dimension.listed]
    ranges.sort(key=lambda dimension: (*_MAPPED, dimension.key).index(dimension.key))
    return [two_keys(result, ranges[0], ranges[1]) for result in splits] if len(ranges) > 1 else []


def _importance(result: SplitResult, dimensions: Sequence[Dimension]) -> tuple[str, list[Bar]]:
    """Caption and bars of a split, the most important key first."""
    known = comparable(result.trials)
    shares = [(dimension.key, importance(dimension, result.trials, known.scores)) for dimension in dimensions]
    shares.sort(key=lambda pair: -(pair[1] or 0.0))
    colour = f"var(--{result.colour})"
    bars = [Bar(key.rpartition(".")[2], colour, share or 0.0, percent(share)) for key, share in shares]
    return f"data.labelled={result.split}{known.when}", bars
