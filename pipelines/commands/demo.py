"""`segray demo`: every step on a picture book, offline, on any machine."""

from __future__ import annotations

import json
import shutil
import time

import click

from segray.pipelines.commands import annotate, evaluate, picture_book, report, train, verify
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.demo import DemoConfig
from segray.pipelines.config.commands.evaluate import EvaluateConfig
from segray.pipelines.config.commands.picture_book import PictureBookConfig
from segray.pipelines.config.commands.report import ReportConfig
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.loading import load
from segray.pipelines.engine import cluster
from segray.pipelines.engine.progress import clock
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.printing import echo
from segray.pipelines.training.run_folder import HISTORY

BUILTIN_MODELS = ("sam.model=builtin", "clip.model=builtin")

RECIPE = (
    "data.kind=picture_book",
    "network.name=builtin",
    "pseudo.ema=0.99",
    "augment.crop=160",
    "augment.scale=[0.9, 1.2]",
    "train.batch=4",
    "train.optimiser=adamw",
    "train.lr=0.0004",
    "train.weight_decay=0.01",
)
"""Training that takes minutes on a CPU: small batches, scales close to those of the scenes, and a teacher
that averages about a hundred steps."""


def run(config: DemoConfig) -> None:
    """Picture book -> annotate -> verify -> evaluate -> report -> train with and without the label set.

    Running a stopped demo again resumes it; a finished demo is only shown again.

    Raises:
        UserError: `out` holds something else.
    """
    began = time.monotonic()
    book, labels = storage.join(config.out, "picture-book"), storage.join(config.out, "labels")
    with cluster.session(None):
        _label(config, book, labels)
        runs = {method: _train(config, method, book, labels) for method in ("supervised", "segray")}
        _step("8/8 report of the training")
        report.run(ReportConfig(out=storage.join(config.out, "segray")))
    echo("\n".join(_table(config, runs)))
    echo(f"\ndone in {clock(time.monotonic() - began)}. Look at:")
    places = {
        "labels": f"{labels}/report.html",
        "training": f"{config.out}/segray/report.html",
        "label set": labels,
        "checkpoint": f"{config.out}/segray/best",
        "scenes": book,
    }
    for what, path in places.items():
        echo(f"  {what:<10} {path}")
    echo("The built-in models know the picture book and nothing else; docs/real-models.md has the real ones.")


def _label(config: DemoConfig, book: str, labels: str) -> None:
    _step("1/8 picture book")
    _draw(config, book)
    _step("2/8 annotate (SAM + GEM-CLIP, zero-shot)")
    annotate.run(
        load(
            AnnotateConfig,
            None,
            [f"images={book}/images", "classes=picture_book", *BUILTIN_MODELS, f"out={labels}"],
        )
    )
    _step("3/8 verify")
    verify.run(VerifyConfig(out=labels))
    _step("4/8 evaluate against the exact masks")
    evaluate.run(EvaluateConfig(labels=labels, masks=f"{book}/masks"))
    _step("5/8 report of the labels")
    report.run(ReportConfig(out=labels, masks=f"{book}/masks"))


def _train(config: DemoConfig, method: str, book: str, labels: str) -> dict[str, float]:
    """Train, and return the metrics of the last epoch."""
    number = {"supervised": 6, "segray": 7}[method]
    what = "hand-made masks alone" if method == "supervised" else "masks and zero-shot labels"
    _step(f"{number}/8 train: {config.labelled} {what} ({method})")
    out = storage.join(config.out, method)
    overrides = [f"out={out}", f"method={method}", f"data.root={book}", f"data.labels={labels}"]
    overrides += [f"data.labelled={config.labelled}", f"train.epochs={config.epochs}", f"seed={config.seed}"]
    overrides += [f"train.validate_every={max(1, config.epochs // 4)}"]
    train.run(load(TrainConfig, None, [*RECIPE, *overrides]))
    metrics: dict[str, float] = json.loads(storage.read_bytes(storage.join(out, HISTORY)))[-1]
    return metrics


def _table(config: DemoConfig, runs: dict[str, dict[str, float]]) -> list[str]:
    """The mIoU of each method on the held-out scenes."""
    last = runs["segray"]
    rows = {
        "zero-shot labels": (0, last["zero_shot_miou"]),
        "supervised": (config.labelled, runs["supervised"]["miou"]),
        "segray": (config.labelled, last["miou"]),
    }
    return [
        "",
        f"{'on held-out scenes':<20}{'hand-made masks':>16}{'mIoU':>10}",
        *(f"  {name:<18}{masks:>16}{miou:>10.1%}" for name, (masks, miou) in rows.items()),
    ]


def _draw(config: DemoConfig, book: str) -> None:
    """Draw the scenes if they are missing; a book that this demo did not finish is drawn again."""
    wanted = f"n={config.n} seed={config.seed}\n".encode()
    mark, folder = storage.join(config.out, ".picture-book"), storage.local_path(book)
    if not storage.exists(mark):
        if folder.exists():
            raise UserError(f"out={config.out} holds a picture book of its own; give another out=DIR")
        storage.write_atomic(mark, wanted)
    elif storage.read_bytes(mark) != wanted:
        raise UserError(f"out={config.out} holds a demo with another n or seed; give another out=DIR")
    # Its class names are written last.
    if (folder / "class_names.txt").exists():
        echo(f"{config.n} scenes are there already")
        return
    if folder.exists():
        shutil.rmtree(folder)
    picture_book.run(PictureBookConfig(out=book, n=config.n, seed=config.seed))


def _step(title: str) -> None:
    click.secho(f"\n{title}", bold=True)
