"""`segray predict`: a trained network over a pile of images, to masks and overlays."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.engine import cluster
from segray.pipelines.engine.progress import clock
from segray.pipelines.engine.shared_storage import require_shared
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.io.sources import list_images
from segray.pipelines.prediction.graph import pool_plan, predictions
from segray.pipelines.prediction.output import TABLE, begin, check_same, made_with, write_table
from segray.pipelines.prediction.stages import MASKS, OVERLAYS, STOP, Job

_SHOWN = 20
_TTY_S, _LOG_S = 1.0, 10.0


@dataclass
class Outcome:
    """What a run has done.

    Attributes:
        images: how many it took.
        bad: status and reason of those without a mask.
        class_images: how many of the others hold each class id.
        class_pixels: int64 [256], pixels of each class id in them.
        seconds: how long it took.
    """

    images: int = 0
    bad: dict[str, tuple[str, str]] = field(default_factory=dict)
    class_images: Counter[int] = field(default_factory=Counter)
    class_pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    seconds: float = 0.0

    def add(self, table: pa.Table) -> None:
        """Count rows of `prediction.stages.ROW_SCHEMA`.

        Raises:
            UserError: one of them must end the run.
        """
        for row in table.to_pylist():
            if row["status"] == STOP:
                safe = "finished masks are safe, the same command goes on once this is mended"
                raise UserError(f"{row['error']}; {safe}", exit_code=1)
            self.images += 1
            if row["status"] != "ok":
                self.bad[row["image_id"]] = (row["status"], row["error"])
                continue
            self.class_images.update(row["class_ids"])
            self.class_pixels[row["class_ids"]] += row["class_pixels"]


def run(config: PredictConfig) -> None:
    """Predict the images that have no mask yet, and print a summary.

    Raises:
        UserError: bad input, or an output of something else or of another checkpoint (2), a full disk (1),
            not one good image (3), or an output in use (4).
    """
    began = time.monotonic()
    before = made_with(config.out)
    images = list_images(config.images)
    job, record = prepare(config)
    check_same(config.out, before, record)
    with RunLock(config.out):
        total, n_todo = begin(job, record, images)
        doing = f"{n_todo} to do, into" if n_todo else "nothing to do in"
        click.echo(f"{total} images, {doing} {storage.display(config.out)}", err=True)
        outcome = Outcome()
        if n_todo:
            _execute(config, job, n_todo, outcome)
        outcome.seconds = time.monotonic() - began
        write_table(job, outcome.bad)
    click.echo("\n".join(summary_lines(config, job.classes, total, outcome)))
    complain_of_bad(total, outcome)


def prepare(config: PredictConfig) -> tuple[Job, dict[str, Any]]:
    """Load the network once, so that a bad checkpoint is told before the first image.

    Returns:
        What the workers need, and what must be the same in all runs into one folder.

    Raises:
        UserError: no checkpoint, or one that cannot be used.
    """
    from segray.pipelines.training.trained import chosen_window, find_checkpoint, load_network, weights_sha256

    uri = _absolute(find_checkpoint(config.checkpoint))
    _, state = load_network(uri)
    job = Job(
        checkpoint=uri,
        sha256=weights_sha256(state),
        classes=tuple(state["classes"]),
        out=_absolute(config.out),
        overlays=config.overlays,
        window=chosen_window(state, config.window),
        options=ImageOptions(**config.image.model_dump()),
    )
    record = {"checkpoint": job.sha256, "images": _absolute(config.images), "window": job.window}
    options = config.image.model_dump(mode="json")
    return job, record | {f"image.{name}": value for name, value in options.items()}


def _absolute(uri: str) -> str:
    """Workers may stand in another folder."""
    return str(storage.local_path(uri)) if storage.is_local(uri) else uri


def _execute(config: PredictConfig, job: Job, n_todo: int, outcome: Outcome) -> None:
    with cluster.session(config.address, config.grow) as resources:
        require_shared(config.out, [config.images, job.checkpoint])
        cluster.quiet_data_context()
        line = _Line(n_todo)
        try:
            for table in predictions(job, pool_plan(config.workers, resources)):
                outcome.add(table)
                line.show(outcome)
        except KeyboardInterrupt:
            where = storage.display(config.out)
            click.echo(f"\nstopped; the masks in {where} are safe, the same command goes on", err=True)
            raise
        finally:
            line.clear()


class _Line:
    """Images done, images/s and time left on stderr: in place on a terminal, else now and then."""

    def __init__(self, total: int) -> None:
        self._total, self._began, self._tty = total, time.monotonic(), sys.stderr.isatty()
        self._next = self._began + (_TTY_S if self._tty else _LOG_S)

    def show(self, outcome: Outcome) -> None:
        """Print, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_TTY_S if self._tty else _LOG_S)
        rate = max(1, outcome.images) / (now - self._began)
        left = clock((self._total - outcome.images) / rate)
        text = f"predict  {outcome.images}/{self._total}  {rate:.1f} images/s  {left} left"
        text += f"  {len(outcome.bad)} bad" if outcome.bad else ""
        click.echo(f"\r\033[K{text}" if self._tty else text, nl=not self._tty, err=True)

    def clear(self) -> None:
        """Take the line off the terminal."""
        if self._tty:
            click.echo("\r\033[K", nl=False, err=True)


def summary_lines(config: PredictConfig, classes: tuple[str, ...], total: int, outcome: Outcome) -> list[str]:
    """What a run came to, in lines; the classes are those of the images of this run."""
    states = Counter(status for status, _ in outcome.bad.values())
    ok = total - len(outcome.bad)
    lines = ["", f"images      {total}: {ok} ok, {states['error']} error, {states['skipped']} skipped"]
    if outcome.images:
        lines.append(f"this run    {outcome.images} images in {clock(outcome.seconds)}")
    if n_pixels := int(outcome.class_pixels.sum()):
        width = max(len(name) for name in (*classes, "class"))
        lines += ["", f"{'class':<{width}}  {'pixels':>8}  {'images':>8}"]
        for i, n_images in sorted(outcome.class_images.items()):
            share = 100 * int(outcome.class_pixels[i]) / n_pixels
            lines.append(f"{classes[i]:<{width}}  {share:>6.2f} %  {n_images:>8}")
    places = [MASKS, *([OVERLAYS] if config.overlays else []), TABLE]
    return [*lines, "", *(storage.display(storage.join(config.out, name)) for name in places)]


def complain_of_bad(total: int, outcome: Outcome) -> None:
    """Name the first bad images on stderr.

    Raises:
        UserError: exit code 3, all are bad.
    """
    for image_id, (status, reason) in sorted(outcome.bad.items())[:_SHOWN]:
        click.echo(f"  {status:<8}{image_id}: {reason}", err=True)
    if len(outcome.bad) > _SHOWN:
        click.echo(f"  ... and {len(outcome.bad) - _SHOWN} more bad images, see {TABLE}", err=True)
    sys.stdout.flush()
    if len(outcome.bad) == total:
        raise UserError(f"not one of {total} images could be labelled", exit_code=3)
