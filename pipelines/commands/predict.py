"""`segray predict`: a trained network over a folder of images, to masks and overlays."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field

import click
import pyarrow as pa

from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.config.loading import identity
from segray.pipelines.config.schema import keys
from segray.pipelines.engine import cluster, ray_data, single_process
from segray.pipelines.engine.progress import StatusLine, clock
from segray.pipelines.engine.shared_storage import require_shared
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.io.pending import read_pending
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.io.sources import LeftOut, follows_links, image_roots, list_images, sources_of
from segray.pipelines.io.uris import redacted_tree
from segray.pipelines.prediction import local
from segray.pipelines.prediction.graph import pool_plan, predictions
from segray.pipelines.prediction.output import TABLE, begin, check_same, made_with, write_table
from segray.pipelines.prediction.stages import MASKS, OVERLAYS, STOP, Job
from segray.pipelines.printing import visible
from segray.pipelines.understood import classes_line, show

_SHOWN = 20


@dataclass
class Outcome:
    """What a run has done.

    Attributes:
        images: how many it took.
        bad: status and reason of those without a mask.
        class_images: how many of the others hold each class id.
        class_pixels: pixels of each class id in them.
        seconds: how long it took.
        notes: how many images had a note; the first is printed.
    """

    images: int = 0
    bad: dict[str, tuple[str, str]] = field(default_factory=dict)
    class_images: Counter[int] = field(default_factory=Counter)
    class_pixels: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    notes: int = 0

    def add(self, table: pa.Table) -> None:
        """Count rows of `prediction.stages.ROW_SCHEMA`.

        Raises:
            UserError: one of them must end the run.
        """
        for row in table.to_pylist():
            if row["status"] == STOP:
                safe = "finished masks are safe; run the same command to resume when this is repaired"
                raise UserError(f"{row['error']}; {safe}", exit_code=1)
            self.images += 1
            if row["note"] and not self.notes:
                click.echo(row["note"], err=True)
            self.notes += bool(row["note"])
            if row["status"] != "ok":
                self.bad[row["image_id"]] = (row["status"], row["error"])
                continue
            self.class_images.update(row["class_ids"])
            for class_id, pixels in zip(row["class_ids"], row["class_pixels"], strict=True):
                self.class_pixels[class_id] += pixels


@dataclass(frozen=True)
class PredictResult:
    """What `predict` wrote; as text, the summary that the command prints.

    Attributes:
        out: folder or URI of the masks and overlays.
        images: how many images there are.
        bad: status and reason, by image_id, of the images of this run without a mask.
        seconds: how long the run took.
        summary: the printed lines.
    """

    out: str
    images: int
    bad: dict[str, tuple[str, str]]
    seconds: float
    summary: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.summary)


def run(config: PredictConfig) -> None:
    """Predict the images that have no mask yet, and print a summary.

    Raises:
        UserError: as `execute` and `check_bad_images` raise.
    """
    result = execute(config)
    click.echo(result)
    _report_bad_images(result)
    check_bad_images(result)


def execute(config: PredictConfig) -> PredictResult:
    """Predict the images that have no mask yet.

    Raises:
        UserError: bad input, or an output of something else or of another checkpoint (2), a full disk (1), or
            an output in use (4).
    """
    began = time.monotonic()
    if not storage.exists(storage.join(config.out, TABLE)):
        cluster.check_start(config.address)
    before = made_with(config.out)
    left_out = LeftOut()
    follow = config.image.follow_links
    images = list_images(config.images, config.image.roots, follow=follow, left_out=left_out)
    job, record = prepare(config)
    check_same(config.out, before and redacted_tree({**_image_defaults(), **before}), record)
    show([classes_line(job.classes)])
    with RunLock(config.out):
        total, n_pending = begin(job, record, images)
        show([str(left_out)] if left_out else [])
        doing = f"{n_pending} to do, into" if n_pending else "nothing to do in"
        click.echo(f"{total} images, {doing} {storage.display(config.out)}", err=True)
        outcome = Outcome()
        if n_pending:
            _execute(config, job, n_pending, outcome)
        outcome.seconds = time.monotonic() - began
        write_table(job, outcome.bad)
    summary = tuple(summary_lines(config, job.classes, total, outcome))
    return PredictResult(config.out, total, outcome.bad, outcome.seconds, summary)


def prepare(config: PredictConfig) -> tuple[Job, dict[str, object]]:
    """Check the checkpoint, so that a bad one is reported before the first image.

    Returns:
        What the workers need, and what must be the same in all runs into one folder.

    Raises:
        UserError: no checkpoint, or an unusable one.
    """
    from segray.pipelines.training.trained import (
        check_network,
        chosen_window,
        find_checkpoint,
        named_window,
        weights_sha256,
    )

    uri = _absolute(find_checkpoint(config.checkpoint))
    state = check_network(uri)
    job = Job(
        checkpoint=uri,
        sha256=weights_sha256(state),
        classes=tuple(state["classes"]),
        out=_absolute(config.out),
        overlays=config.overlays,
        window=chosen_window(state, config.window),
        options=_image_options(config),
    )
    images = storage.redacted(",".join(map(_absolute, sources_of(config.images))))
    record = {"checkpoint": job.sha256, "images": images, "window": named_window(state, config.window)}
    options = {name: value for name, value in identity(config).items() if name.startswith("image.")}
    return job, record | options


def _image_defaults() -> dict[str, object]:
    """For records of an older segray, which did not have all of these keys."""
    return {name: key.default for name, key in keys(PredictConfig).items() if name.startswith("image.")}


def _image_options(config: PredictConfig) -> ImageOptions:
    roots = image_roots(config.images, config.image.roots)
    follow = follows_links(config.images, config.image.follow_links)
    return ImageOptions(
        **config.image.model_dump(exclude={"roots", "links"}), roots=roots, follow_links=follow
    )


def _absolute(uri: str) -> str:
    """Workers may have another working directory."""
    return str(storage.local_path(uri)) if storage.is_local(uri) else uri


def _execute(config: PredictConfig, job: Job, n_pending: int, outcome: Outcome) -> None:
    here = local.suits(config, n_pending)
    tables = local.predictions(job, read_pending(job.out)) if here else _on_cluster(config, job, n_pending)
    status = _Line(n_pending)
    try:
        with closing(tables), Waiting("the workers to load the network and the first images") as wait:
            for table in tables:
                wait.heard("the next images")
                outcome.add(table)
                status.show(outcome)
    except KeyboardInterrupt:
        where = storage.display(config.out)
        click.echo(f"\nstopped; the masks in {where} are safe; run the same command to resume", err=True)
        raise
    finally:
        status.clear()


def _on_cluster(config: PredictConfig, job: Job, n_pending: int) -> Generator[pa.Table]:
    single_process.tell_of_death(job.out)
    with cluster.session(config.address, config.grow) as resources:
        require_shared(config.out, [*sources_of(config.images), *config.image.roots, job.checkpoint])
        ray_data.configure()
        yield from predictions(job, pool_plan(config.workers, resources, n_pending))
    single_process.forget_death(job.out)


class _Line:
    """Images done, images/s and time left."""

    def __init__(self, total: int) -> None:
        self._total, self._began, self._line = total, time.monotonic(), StatusLine()
        self._next = self._began + self._line.interval

    def show(self, outcome: Outcome) -> None:
        """Print, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._line.interval
        rate = max(1, outcome.images) / (now - self._began)
        left = clock((self._total - outcome.images) / rate)
        text = f"predict  {outcome.images}/{self._total}  {rate:.1f} images/s  {left} left"
        self._line.show(text + (f"  {len(outcome.bad)} bad" if outcome.bad else ""))

    def clear(self) -> None:
        """Remove the line from the terminal."""
        self._line.clear()


def summary_lines(config: PredictConfig, classes: tuple[str, ...], total: int, outcome: Outcome) -> list[str]:
    """The result of a run, in lines; classes are counted over the images of this run."""
    states = Counter(status for status, _ in outcome.bad.values())
    ok = total - len(outcome.bad)
    lines = ["", f"images      {total}: {ok} ok, {states['error']} error, {states['skipped']} skipped"]
    if outcome.images:
        lines.append(f"this run    {outcome.images} images in {clock(outcome.seconds)}")
    if n_pixels := outcome.class_pixels.total():
        width = max(len(name) for name in (*classes, "class"))
        lines += ["", f"{'class':<{width}}  {'pixels':>8}  {'images':>8}"]
        for i, n_images in sorted(outcome.class_images.items()):
            share = 100 * outcome.class_pixels[i] / n_pixels
            lines.append(f"{classes[i]:<{width}}  {share:>6.2f} %  {n_images:>8}")
    places = [MASKS, *([OVERLAYS] if config.overlays else []), TABLE]
    return [*lines, "", *(storage.display(storage.join(config.out, name)) for name in places)]


def _report_bad_images(result: PredictResult) -> None:
    for image_id, (status, reason) in sorted(result.bad.items())[:_SHOWN]:
        click.echo(f"  {status:<8}{visible(image_id)}: {visible(reason)}", err=True)
    if len(result.bad) > _SHOWN:
        click.echo(f"  ... and {len(result.bad) - _SHOWN} more bad images, see {TABLE}", err=True)
    sys.stdout.flush()


def check_bad_images(result: PredictResult) -> None:
    """Refuse a result without a single good image.

    Raises:
        UserError: all images are bad (3).
    """
    if len(result.bad) == result.images:
        raise UserError(f"not one of {result.images} images could be labelled", exit_code=3)
