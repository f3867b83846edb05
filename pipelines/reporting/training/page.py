"""The page of a training run: curves, classes, example images, configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segray.models.label_space import LabelSpace, is_wide
from segray.models.semi.methods import METHODS
from segray.pipelines.config.commands.train import NetworkConfig, TrainConfig
from segray.pipelines.engine.progress import clock
from segray.pipelines.io import storage
from segray.pipelines.printing import visible
from segray.pipelines.reporting.label_set.samples import Legend
from segray.pipelines.reporting.page import Bar, bars, config_text, facts, percent, render
from segray.pipelines.reporting.training.charts import (
    LOSS,
    SHARE,
    WHOLE_SHARE,
    LineChart,
    Series,
    line_chart,
)
from segray.pipelines.reporting.training.confusion import confusion_table
from segray.pipelines.reporting.training.examples import Examples, make_examples, tau_of
from segray.pipelines.reporting.training.history import Entry, TrainingRun, read_run
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.history import has_stopped
from segray.pipelines.training.pseudo_labels import epsilon_of
from segray.pipelines.understood import name_some

_LABELS = {"zero_shot": "zero-shot labels", "enhanced": "enhanced labels", "": "network"}
"""Names of the scored label maps by the prefix of their keys in an entry of the history."""


@dataclass(frozen=True)
class Result:
    """A row of the results table: scores of the network or of its labels.

    Attributes:
        epoch: as text; None for labels that do not change.
        gain: mIoU points over the zero-shot labels, as text; "" if unknown.
    """

    name: str
    epoch: str | None
    miou: float | None
    accuracy: float | None
    gain: str


def build(out: str, n: int = 12, roots: Sequence[str] = ()) -> str:
    """Build the page as HTML.

    Args:
        out: folder or URI of a training run, finished or not.
        n: number of validation images to show that the network is least sure of, and of most sure.
        roots: folders of the user where the data may be, see `make_examples`.

    Raises:
        UserError: the history is damaged, or nothing was validated yet.
    """
    run = read_run(out)
    classes = tuple(visible(name) for name in run.classes)
    legend = Legend(classes, LabelSpace(classes, ()).palette())
    examples = make_examples(run, legend, n, roots)
    return render(
        "training.html",
        title=visible(storage.display(out)),
        run=run,
        best=run.best,
        last=run.last,
        stopped_early=_stopped_early(run),
        epochs=run.config.train.epochs if run.config else None,
        enhances=run.config is not None and METHODS[run.config.method].pseudo == "enhanced",
        tau=tau_of(run.config) if run.config else None,
        metrics=_metrics(run),
        results=_results(run),
        charts=_charts(run),
        class_bars=_class_bars(run.best, legend),
        pixel_bars=_pixel_bars(run.last, legend),
        not_taught=_absent(run.last.labelled_pixels or [], classes),
        not_tested=_absent([sum(row) for row in run.last.confusion], classes),
        heat=None if is_wide(len(classes)) else confusion_table(run.best.counts, classes),
        legend=[(name, legend.colour(i)) for i, name in enumerate(classes)],
        examples=examples,
        groups=[g for g in (("least", examples.least), ("most", examples.most)) if g[1]],
        facts=facts(_key_settings(run, run.config, examples), "run") if run.config else {},
        config=config_text(out),
    )


def _stopped_early(run: TrainingRun) -> bool:
    patience = run.config.train.patience if run.config else None
    return patience is not None and has_stopped([entry.miou for entry in run.history], patience)


def _metrics(run: TrainingRun) -> list[tuple[str, str]]:
    """(value, description) of the row of cards."""
    best = run.best
    cards = [(percent(best.miou), "best mean IoU"), (percent(best.accuracy), "pixel accuracy at that epoch")]
    if best.miou is not None and best.zero_shot_miou is not None:
        gain = f"{100 * (best.miou - best.zero_shot_miou):+.1f}"
        cards.append((gain, "points over the zero-shot labels"))
    cards.append((f"{run.last.epoch:g}", f"epochs, {run.last.step:,} steps"))
    seconds = sum(entry.seconds or 0.0 for entry in run.history)
    if seconds:
        waiting = sum((entry.seconds or 0.0) * (entry.waiting or 0.0) for entry in run.history)
        cards += [(clock(seconds), "of training"), (percent(waiting / seconds), "of it waiting for data")]
    return cards


def _results(run: TrainingRun) -> list[Result]:
    """The network at its best and at its last epoch, and the labels that it learned from."""
    best, last = run.best, run.last
    base = last.zero_shot_miou
    results = [
        _result("network, best epoch", best, "", base),
        _result("network, last epoch", last, "", base),
        Result("zero-shot labels", None, base, last.zero_shot_accuracy, ""),
        _result("enhanced labels, best epoch", best, "enhanced", base),
        _result("enhanced labels, last epoch", last, "enhanced", base),
    ]
    return [row for row in results if row.miou is not None or row.name.startswith("network")]


def _result(name: str, entry: Entry, labels: str, base: float | None) -> Result:
    miou, accuracy = _value(entry, labels, "miou"), _value(entry, labels, "accuracy")
    gain = "" if base is None or miou is None else f"{100 * (miou - base):+.1f}"
    return Result(name, f"{entry.epoch:g}", miou, accuracy, gain)


def _value(entry: Entry, labels: str, metric: str) -> float | None:
    value: float | None = getattr(entry, f"{labels}_{metric}" if labels else metric)
    return value


def _charts(run: TrainingRun) -> list[LineChart]:
    """The curves that have values; first the one that explains the method."""
    best = run.best.epoch if len(run.history) > 1 else None
    charts = [
        line_chart(f"{name} on the validation images", _scores(run, key), SHARE, best=best, area=True)
        for name, key in (("Mean IoU", "miou"), ("Pixel accuracy", "accuracy"))
    ]
    charts += [line_chart("Loss", _losses(run), LOSS)]
    charts += [line_chart("Unlabelled pixels", _shares(run), WHOLE_SHARE)]
    return [chart for chart in charts if chart is not None]


def _scores(run: TrainingRun, metric: str) -> list[Series]:
    # Enhanced and zero-shot first: the area between them is what the network adds to the labels.
    colours = {"enhanced": "series-1", "zero_shot": "muted", "": "series-0"}
    curves = []
    for labels, colour in colours.items():
        points = [(entry.epoch, _value(entry, labels, metric)) for entry in run.history]
        name, key = _LABELS[labels], labels or "network"
        curves.append(Series(name, key, colour, points, dashed=labels == "zero_shot"))
    return curves


def _losses(run: TrainingRun) -> list[Series]:
    losses = [_series(run, "loss", "total", "ink"), _series(run, "supervised", "supervised", "ok")]
    if any(entry.unsupervised for entry in run.history):
        losses.append(_series(run, "unsupervised", "unsupervised", "series-3"))
    return losses


def _shares(run: TrainingRun) -> list[Series]:
    return [
        _series(run, "from_model", "taken from the network", "series-0"),
        _series(run, "agreement", "network and zero-shot label agree", "series-3"),
    ]


def _series(run: TrainingRun, key: str, name: str, colour: str) -> Series:
    return Series(name, key, colour, [(entry.epoch, getattr(entry, key)) for entry in run.history])


def _class_bars(best: Entry, legend: Legend) -> list[Bar]:
    """IoU of each class, the highest first; classes that do not occur come last."""
    iou = [math.nan if value is None else value for value in best.iou]
    ids = sorted(range(len(iou)), key=lambda i: -1.0 if math.isnan(iou[i]) else iou[i], reverse=True)
    return bars(ids, legend, iou, percent, longest=1.0)


def _pixel_bars(last: Entry, legend: Legend) -> list[Bar]:
    """Pixels of each class in the labelled masks, the largest first; none in a run of an older version."""
    pixels = last.labelled_pixels or []
    ids = sorted(range(len(pixels)), key=lambda i: (-pixels[i], i))
    return bars(ids, legend, [float(count) for count in pixels], "{:,.0f}".format)


def _absent(pixels: Sequence[int], classes: Sequence[str]) -> str:
    """The classes without a pixel."""
    return name_some([name for name, count in zip(classes, pixels, strict=False) if not count])


def _key_settings(run: TrainingRun, config: TrainConfig, examples: Examples) -> dict[str, object]:
    """The most important settings of a run."""
    train = config.train
    keys = ("epochs", "batch", "optimiser", "lr", "decoder_lr", "workers", "precision")
    chosen = {"crop": config.augment.crop, "window": train.window if run.window is None else run.window}
    return {
        "method": config.method,
        "network": config.network.name,
        "weights": _start(config.network),
        "seed": config.seed,
        "data": _data_settings(config, examples.data),
        "unlabelled images": _pseudo_settings(config, len(run.classes)),
        "train": {key: getattr(train, key) for key in keys} | chosen,
    }


def _start(network: NetworkConfig) -> str | None:
    if network.checkpoint is not None:
        return f"of {storage.display(network.checkpoint)}"
    return network.weights if network.pretrained else "random"


def _data_settings(config: TrainConfig, data: TrainingData | None) -> dict[str, object]:
    keys = ("kind", "root", "labels", "calibrate", "labelled", "validation")
    settings: dict[str, object] = {key: getattr(config.data, key) for key in keys}
    if data is None:
        return settings
    parts = {"labelled": data.labelled, "unlabelled": data.unlabelled, "validation": data.validation}
    return settings | {f"{name} images": f"{len(samples):,}" for name, samples in parts.items()}


def _pseudo_settings(config: TrainConfig, n_classes: int) -> dict[str, object]:
    """How the network learns from unlabelled images, with defaults resolved."""
    method, pseudo = METHODS[config.method], config.pseudo
    settings: dict[str, object] = {} if method.pseudo == "none" else {"tau": tau_of(config)}
    if method.pseudo == "enhanced":
        smoothing = f"{epsilon_of(pseudo, n_classes):.4g}"
        settings |= {"epsilon": smoothing, "min_confidence": pseudo.min_confidence}
        settings |= {"segments": pseudo.segments, "forward": pseudo.forward}
    return settings | ({"ema": pseudo.ema} if method.teacher == "ema" else {})
