"""The page of a training run: curves, classes, pictures, configuration."""

from __future__ import annotations

import math
from typing import Any

from segray.models.label_space import LabelSpace
from segray.models.semi.methods import METHODS
from segray.models.semi.objective import default_epsilon
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.engine.progress import clock
from segray.pipelines.io import storage
from segray.pipelines.reporting.label_set.samples import Legend, visible
from segray.pipelines.reporting.page import bars, config_text, facts, percent, render
from segray.pipelines.reporting.training.charts import (
    LOSS,
    SHARE,
    WHOLE_SHARE,
    LineChart,
    Series,
    heat_table,
    line_chart,
)
from segray.pipelines.reporting.training.examples import Pictures, make_pictures, tau_of
from segray.pipelines.reporting.training.history import Entry, TrainingRun, read_run
from segray.pipelines.training.data.samples import TrainingData

_TEACHERS = {"zero_shot": "zero-shot labels", "enhanced": "enhanced labels", "": "network"}
"""Whose mIoU and accuracy an entry has, by the beginning of its keys."""


def build(out: str, n: int = 12) -> str:
    """The page as HTML.

    Args:
        out: folder or URI of a training run, ended or not.
        n: how many of the validation images that the network is least sure of to show, and of most sure.

    Raises:
        UserError: the history is damaged, or nothing was validated yet.
    """
    run = read_run(out)
    classes = tuple(visible(name) for name in run.classes)
    legend = Legend(classes, LabelSpace(classes, ()).palette())
    pictures = make_pictures(run, legend, n)
    return render(
        "training.html",
        title=visible(storage.display(out)),
        run=run,
        best=run.best,
        last=run.last,
        epochs=run.config.train.epochs if run.config else None,
        enhances=run.config is not None and METHODS[run.config.method].pseudo == "enhanced",
        tau=tau_of(run.config) if run.config else None,
        figures=_figures(run),
        outcome=_outcome(run),
        charts=_charts(run),
        class_bars=_bars(run.best, legend),
        heat=heat_table(run.best.counts, classes),
        legend=[(name, legend.colour(i)) for i, name in enumerate(classes)],
        pictures=pictures,
        groups=[g for g in (("least", pictures.least), ("most", pictures.most)) if g[1]],
        facts=facts(_short(run.config, pictures, len(classes)), "run") if run.config else {},
        config=config_text(out),
    )


def _figures(run: TrainingRun) -> list[tuple[str, str]]:
    """(figure, what it is) of the row of cards."""
    best = run.best
    shown = [(percent(best.miou), "best mean IoU"), (percent(best.accuracy), "pixels right then")]
    if best.miou is not None and best.zero_shot_miou is not None:
        gain = f"{100 * (best.miou - best.zero_shot_miou):+.1f}"
        shown.append((gain, "points over the zero-shot labels"))
    shown.append((f"{run.last.epoch:g}", f"epochs, {run.last.step:,} steps"))
    seconds = sum(entry.seconds or 0.0 for entry in run.history)
    if seconds:
        waited = sum((entry.seconds or 0.0) * (entry.waiting or 0.0) for entry in run.history)
        shown += [
            (clock(seconds), "of training"),
            (percent(waited / seconds), "of it waiting for data"),
        ]
    return shown


def _outcome(run: TrainingRun) -> list[dict[str, Any]]:
    """Rows of the table: the network at its best and at its end, and the labels that taught it."""
    best, last = run.best, run.last
    rows = [
        _row("network, best epoch", best, ""),
        _row("network, last epoch", last, ""),
        _row("zero-shot labels", last, "zero_shot") | {"epoch": None},
        _row("enhanced labels, best epoch", best, "enhanced"),
        _row("enhanced labels, last epoch", last, "enhanced"),
    ]
    base = last.zero_shot_miou
    for row in rows:
        known = base is not None and row["miou"] is not None and row["epoch"] is not None
        row["gain"] = f"{100 * (row['miou'] - base):+.1f}" if known else ""
    return [row for row in rows if row["miou"] is not None or row["name"].startswith("network")]


def _row(name: str, entry: Entry, whose: str) -> dict[str, Any]:
    miou, accuracy = _value(entry, whose, "miou"), _value(entry, whose, "accuracy")
    return {"name": name, "epoch": f"{entry.epoch:g}", "miou": miou, "accuracy": accuracy}


def _value(entry: Entry, whose: str, figure: str) -> float | None:
    value: float | None = getattr(entry, f"{whose}_{figure}" if whose else figure)
    return value


def _charts(run: TrainingRun) -> list[LineChart]:
    """The curves that have values; first the one that explains the method."""
    best = run.best.epoch if len(run.history) > 1 else None
    losses = [_series(run, key, key if key != "loss" else "total") for key in ("loss", "supervised")]
    if any(entry.unsupervised for entry in run.history):
        losses.append(_series(run, "unsupervised", "unsupervised"))
    shares = [_series(run, "from_model", "taken from the network")]
    shares.append(_series(run, "agreement", "network and zero-shot label agree"))
    charts = [
        line_chart("Mean IoU on the validation images", _scores(run, "miou"), SHARE, best=best, area=True),
        line_chart(
            "Pixels right on the validation images", _scores(run, "accuracy"), SHARE, best=best, area=True
        ),
        line_chart("Loss", losses, LOSS),
        line_chart("Unlabelled pixels", shares, WHOLE_SHARE),
    ]
    return [chart for chart in charts if chart is not None]


def _scores(run: TrainingRun, figure: str) -> list[Series]:
    # Enhanced and zero-shot first: the surface between them is what the network adds to its own labels.
    curves = []
    for whose in ("enhanced", "zero_shot", ""):
        points = [(entry.epoch, _value(entry, whose, figure)) for entry in run.history]
        curves.append(Series(_TEACHERS[whose], whose or "network", points))
    return curves


def _series(run: TrainingRun, key: str, name: str) -> Series:
    return Series(name, key, [(entry.epoch, getattr(entry, key)) for entry in run.history])


def _bars(best: Entry, legend: Legend) -> list[dict[str, Any]]:
    """IoU of each class, the highest first; classes that do not occur come last."""
    iou = [math.nan if value is None else value for value in best.iou]
    ids = sorted(range(len(iou)), key=lambda i: -1.0 if math.isnan(iou[i]) else iou[i], reverse=True)
    return bars(ids, legend, iou, percent, longest=1.0)


def _short(config: TrainConfig, pictures: Pictures, classes: int) -> dict[str, Any]:
    """What one asks of a run first; the whole configuration stands below it."""
    train = config.train
    chosen = ("epochs", "batch", "optimiser", "lr", "decoder_lr", "workers", "precision", "window")
    return {
        "method": config.method,
        "network": config.network.name,
        "weights": config.network.weights if config.network.pretrained else "random",
        "seed": config.seed,
        "data": _data_facts(config, pictures.data),
        "unlabelled images": _pseudo_facts(config, classes),
        "train": {key: getattr(train, key) for key in chosen} | {"crop": config.augment.crop},
    }


def _data_facts(config: TrainConfig, data: TrainingData | None) -> dict[str, Any]:
    given = {key: getattr(config.data, key) for key in ("kind", "root", "labels", "labelled", "validation")}
    if data is None:
        return given
    parts = {"labelled": data.labelled, "unlabelled": data.unlabelled, "validation": data.validation}
    return given | {f"{name} images": f"{len(items):,}" for name, items in parts.items()}


def _pseudo_facts(config: TrainConfig, classes: int) -> dict[str, Any]:
    """How unlabelled images teach, with the values that a null stands for."""
    method, given = METHODS[config.method], config.pseudo
    shown: dict[str, Any] = {} if method.pseudo == "none" else {"tau": tau_of(config)}
    if method.pseudo == "enhanced":
        smoothing = default_epsilon(classes) if given.epsilon is None else given.epsilon
        shown |= {"epsilon": f"{smoothing:.4g}", "min_confidence": given.min_confidence}
    return shown | ({"ema": given.ema} if method.teacher == "ema" else {})
