"""The page of a search: what is best for how many masks, and what the keys do."""

from __future__ import annotations

from typing import Any

from segray.pipelines.config.search_space import Dimension
from segray.pipelines.io import storage
from segray.pipelines.reporting.label_set.samples import visible
from segray.pipelines.reporting.page import config_text, facts, percent, render
from segray.tuning.charts import Plot, learning, over_key, over_labels, two_keys
from segray.tuning.effects import comparable, importance
from segray.tuning.ledger import Ledger, Trial, mean, split_names
from segray.tuning.outcome import best_file, default_of, held_out_score, labelled_of
from segray.tuning.plan import dimensions_of, splits_of

_STYLES = 6
"""Colours that splits take in turn."""
_MAPPED = ("pseudo.tau", "pseudo.epsilon")


def build(ledger: Ledger) -> str:
    """The page as HTML."""
    config = ledger.config
    dimensions = dimensions_of(config)
    splits = splits_of(config)
    rows = [_split_row(ledger, split) for split in splits]
    trials = [one for split in splits for one in ledger.trials(split)]
    ranges = [(key, visible(written)) for key, written in config.space.items() if written is not None]
    return render(
        "tuning.html",
        title=visible(storage.display(config.out)),
        config=config,
        rows=rows,
        figures=_figures(rows, trials),
        labels=_labels_plot(ledger),
        keys=[plot for one in dimensions if (plot := over_key(one, _families(ledger)))],
        maps=_maps(ledger, dimensions),
        curves=_curves(ledger),
        importance=_importance(ledger, dimensions),
        names=[one.key for one in dimensions],
        trials=[_trial_row(one, ledger) for one in trials],
        crashed=[(one.file, visible(one.reason)) for one in trials if one.state == "crashed"],
        unfinished=sum(one.state == "running" for one in trials),
        finals=config.search.finalists if config.search.final_seeds else 0,
        picture_book=config.network.name == "picture_book",
        facts=facts({"space": dict(ranges), "search": _search_facts(ledger)}, "search"),
        config_text=config_text(config.out),
    )


def _families(ledger: Ledger) -> dict[str, tuple[str, list[Trial], Trial | None]]:
    return {
        split: (f"s{index % _STYLES}", ledger.trials(split), ledger.best(split))
        for index, split in enumerate(splits_of(ledger.config))
    }


def _split_row(ledger: Ledger, split: str) -> dict[str, Any]:
    best, default = ledger.best(split), default_of(ledger, split)
    unseen = (held_out_score(default), held_out_score(best))
    return {
        "split": split,
        "labelled": labelled_of(ledger, split),
        "default": default.overall if default else None,
        "best": best,
        "score": best.overall if best else None,
        "unseen_default": unseen[0],
        "unseen": unseen[1],
        "gain": _points(default.overall if default else None, best.overall if best else None),
        "unseen_gain": _points(*unseen),
        "file": best_file(split_names(splits_of(ledger.config))[split]),
        "trials": len(ledger.trials(split)),
    }


def _points(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{100 * (after - before):+.1f}"


def _figures(rows: list[dict[str, Any]], trials: list[Trial]) -> list[tuple[str, str]]:
    """(figure, what it is) of the row of cards."""
    scored = [row for row in rows if row["score"] is not None]
    shown = [(f"{len(trials)}", f"trials in {len(rows)} split{'s' * (len(rows) != 1)}")]
    stopped = sum(one.state == "stopped" for one in trials)
    shown.append((f"{stopped}", "stopped early as weak"))
    if scored:
        top = max(scored, key=lambda row: row["score"])
        shown.append((percent(top["score"]), f"best mean IoU, with {top['labelled']} masks"))
    gains = [row["unseen"] - row["unseen_default"] for row in rows if _both(row)]
    if gains:
        shown.append((f"{100 * (mean(gains) or 0):+.1f}", "points over the defaults on unseen seeds, mean"))
    return shown


def _both(row: dict[str, Any]) -> bool:
    return row["unseen"] is not None and row["unseen_default"] is not None


def _labels_plot(ledger: Ledger) -> Plot | None:
    points: dict[str, list[tuple[int, float | None]]] = {"best": [], "standing": [], "zero": []}
    points |= {"unseen-best": [], "unseen-standing": []}
    ordered = sorted(splits_of(ledger.config), key=lambda split: labelled_of(ledger, split) or 0)
    for split in ordered:
        count, best, default = labelled_of(ledger, split), ledger.best(split), default_of(ledger, split)
        if not count or best is None:
            continue
        points["best"].append((count, best.overall))
        points["standing"].append((count, default.overall if default else None))
        points["zero"].append((count, best.runs[0].zero_shot))
        points["unseen-best"].append((count, held_out_score(best)))
        points["unseen-standing"].append((count, held_out_score(default)))
    names = {
        "best": "best trial",
        "standing": "as it stands",
        "unseen-best": "best, unseen seeds",
        "unseen-standing": "as it stands, unseen seeds",
        "zero": "zero-shot labels",
    }
    return over_labels([(f"of-{style}", name, points[style]) for style, name in names.items()])


def _maps(ledger: Ledger, dimensions: list[Dimension]) -> list[Plot]:
    """tau x epsilon, or the first two ranges, split by split."""
    ranges = [one for one in dimensions if not one.listed]
    ranges.sort(key=lambda one: _MAPPED.index(one.key) if one.key in _MAPPED else len(_MAPPED))
    if len(ranges) < 2:
        return []
    plots = []
    for split, (_, trials, best) in _families(ledger).items():
        known = comparable(trials)
        plots.append(two_keys(split, (ranges[0], ranges[1]), trials, known, best))
    return [plot for plot in plots if plot is not None]


def _curves(ledger: Ledger) -> list[Plot]:
    plots = [
        learning(split, style, trials, best) for split, (style, trials, best) in _families(ledger).items()
    ]
    return [plot for plot in plots if plot is not None]


def _importance(ledger: Ledger, dimensions: list[Dimension]) -> list[dict[str, Any]]:
    """Bars of each split, the most important key first."""
    charts = []
    for split, (style, trials, _) in _families(ledger).items():
        known = comparable(trials)
        found = [(one.key, importance(one, trials, known.scores)) for one in dimensions]
        found.sort(key=lambda pair: -(pair[1] or 0.0))
        bars = [
            {
                "name": key.rpartition(".")[2],
                "length": share or 0.0,
                "text": percent(share),
                "colour": f"var(--{style})",
            }
            for key, share in found
        ]
        when = "" if known.epoch is None else f", at epoch {known.epoch:g}"
        charts.append({"caption": f"data.labelled={split}{when}", "bars": bars})
    return charts


def _trial_row(trial: Trial, ledger: Ledger) -> dict[str, Any]:
    return {
        "file": trial.file,
        "state": trial.state,
        "score": trial.score,
        "overall": trial.overall if trial.finals else None,
        "unseen": held_out_score(trial),
        "epochs": mean([run.epoch for run in trial.runs]),
        "best": trial is ledger.best(trial.split),
        "standing": trial.number == 0,
        "values": [visible(trial.values.get(one.key, "")) for one in dimensions_of(ledger.config)],
        "reason": visible(trial.reason),
    }


def _search_facts(ledger: Ledger) -> dict[str, Any]:
    config = ledger.config
    shown = config.search.model_dump(mode="json", exclude={"keep_weights", "concurrent"})
    return {**shown, "method": config.method, "network": config.network.name, "epochs": config.train.epochs}
