"""`segray demo`: the whole path on a picture book, offline, on whatever machine this is."""

from __future__ import annotations

import shutil
import time

import click

from pipelines import annotate, evaluate, picture_book, report, verify
from pipelines.annotation.progress import clock
from pipelines.config.loading import load
from pipelines.config.settings import (
    AnnotateConfig,
    DemoConfig,
    EvaluateConfig,
    PictureBookConfig,
    ReportConfig,
    VerifyConfig,
)
from pipelines.errors import UserError
from pipelines.store import storage


def run(config: DemoConfig) -> None:
    """Picture book -> annotate -> verify -> evaluate -> report.

    A demo that was stopped goes on where it was; a finished one is only shown again.

    Raises:
        UserError: `out` holds something else.
    """
    began = time.monotonic()
    book, labels = storage.join(config.out, "picture-book"), storage.join(config.out, "labels")
    _step("1/5 picture book")
    _draw(config, book)
    _step("2/5 annotate (SAM + GEM-CLIP, zero-shot)")
    annotate.run(
        load(AnnotateConfig, None, [f"images={book}/images", "classes=picture_book", f"out={labels}"])
    )
    _step("3/5 verify")
    verify.run(VerifyConfig(out=labels))
    _step("4/5 evaluate against the exact masks")
    evaluate.run(EvaluateConfig(labels=labels, masks=f"{book}/masks"))
    _step("5/5 report")
    report.run(ReportConfig(out=labels, masks=f"{book}/masks"))
    click.echo(f"\ndone in {clock(time.monotonic() - began)}. Look at:")
    for what, path in (("pictures", f"{labels}/report.html"), ("label set", labels), ("scenes", book)):
        click.echo(f"  {what:<10} {path}")
    click.echo(
        "The built-in models know the picture book and nothing else; docs/real-models.md has the real ones."
    )


def _draw(config: DemoConfig, book: str) -> None:
    """Draw the scenes, unless they are there; a book that this demo began and did not end is drawn anew."""
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
        click.echo(f"{config.n} scenes are there already")
        return
    if folder.exists():
        shutil.rmtree(folder)
    picture_book.run(PictureBookConfig(out=book, n=config.n, seed=config.seed))


def _step(title: str) -> None:
    click.secho(f"\n{title}", bold=True)
