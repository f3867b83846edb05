"""`segray predict`: a trained network over a folder of images, to masks and overlays."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import closing

import pyarrow as pa

from segray.pipelines.config.commands.predict import PredictConfig
from segray.pipelines.engine import cluster, ray_data, single_process
from segray.pipelines.engine.image_values import pending_lines
from segray.pipelines.engine.progress import StatusLine, clock, resumable
from segray.pipelines.engine.shared_storage import require_shared
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.pending import read_pending
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.io.sources import LeftOut, list_images, sources_of
from segray.pipelines.prediction import local
from segray.pipelines.prediction.graph import pool_plan, predictions
from segray.pipelines.prediction.job import Job
from segray.pipelines.prediction.output import TABLE, begin, finish, good_rows, made_with
from segray.pipelines.prediction.prepare import check_folder, prepare
from segray.pipelines.prediction.result import Outcome, PredictResult, Totals
from segray.pipelines.prediction.rows import ImageRows
from segray.pipelines.printing import echo, visible
from segray.pipelines.understood import classes_line, show

_SHOWN = 20


def run(config: PredictConfig) -> None:
    """Predict the images that have no mask yet, and print a summary.

    Raises:
        UserError: as `execute` and `check_bad_images` raise.
    """
    result = execute(config)
    echo(result)
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
    images = list_images(
        config.images, config.image.roots, follow=follow, left_out=left_out, column=config.image.column
    )
    job, record = prepare(config, before)
    show([classes_line(job.classes)])
    outcome = Outcome()
    with RunLock(config.out):
        rows = ImageRows(job.out)
        check_folder(config, before, record, rows)
        total, n_pending = begin(job, record, images, rows)
        show([str(left_out)] if left_out else [])
        doing = f"{n_pending} to do, into" if n_pending else "nothing to do in"
        echo(f"{total} images, {doing} {storage.display(config.out)}", err=True)
        if n_pending:
            show(pending_lines(read_pending(job.out), n_pending, job.options))
            _execute(config, job, n_pending, outcome, rows)
        finish(job, rows, outcome.bad)
        totals = Totals.of(good_rows(job, rows, outcome.bad))
    return PredictResult.of(config, job, total, outcome, totals, time.monotonic() - began)


def _execute(config: PredictConfig, job: Job, n_pending: int, outcome: Outcome, rows: ImageRows) -> None:
    here = local.suits(config, n_pending)
    tables = local.predictions(job, read_pending(job.out)) if here else _on_cluster(config, job, n_pending)
    status = _Line(n_pending)
    safe = resumable(f"the masks in {storage.display(config.out)} are")
    waiting = Waiting("the workers to load the network and the first images")
    try:
        with safe, closing(tables), waiting as wait:
            for table in tables:
                wait.heard("the next images")
                rows.add(outcome.add(table))
                status.show(outcome)
    finally:
        status.clear()
        rows.flush()


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


def _report_bad_images(result: PredictResult) -> None:
    for image_id, (status, reason) in sorted(result.bad.items())[:_SHOWN]:
        echo(f"  {status:<8}{visible(image_id)}: {visible(reason)}", err=True)
    if len(result.bad) > _SHOWN:
        echo(f"  ... and {len(result.bad) - _SHOWN} more bad images, see {TABLE}", err=True)
    sys.stdout.flush()


def check_bad_images(result: PredictResult) -> None:
    """Refuse a result without a single good image.

    Raises:
        UserError: all images are bad (3).
    """
    if len(result.bad) == result.images:
        raise UserError(f"not one of {result.images} images could be labelled", exit_code=3)
