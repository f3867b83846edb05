"""`segray tune`: search the keys of `segray train` on Ray Tune, each split for itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from segray.pipelines.commands.train import check
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.config.commands.tune import TuneConfig, dimensions_of, of_split, splits_of, train_config
from segray.pipelines.config.paths import absolute
from segray.pipelines.engine import cluster
from segray.pipelines.engine.actors import actor_here
from segray.pipelines.engine.shared_storage import require_shared
from segray.pipelines.errors import UserError
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.printing import echo
from segray.pipelines.training.auto_precision import recorded_precision, with_precision
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.summary import data_lines, range_lines
from segray.pipelines.training.data.training_data import NO_VALIDATION, open_data
from segray.pipelines.training.trackers import check_trackers
from segray.pipelines.training.trainer import places, scaling_config
from segray.pipelines.understood import show
from segray.tuning.folder import SearchFolder, configured
from segray.tuning.label_sets import Calibrations, make_thresholds, variants_of, with_labels
from segray.tuning.plans import Job, RerunPlan, SearchPlan, proposer_of
from segray.tuning.records import Trial
from segray.tuning.report import summary
from segray.tuning.report.table import Table
from segray.tuning.trial import TrialCoordinator, TrialRun

if TYPE_CHECKING:
    from ray import ObjectRef

OpenData = Callable[[DataConfig, int], TrainingData]
"""`open_data` that opens and checks data once for all trials that need the same."""


def run(config: TuneConfig) -> None:
    """Search, or resume a search, and write tables, configurations and the page.

    Raises:
        UserError: bad data, space or options (2); the folder belongs to another search (2) or is in use (4);
            no trial of a split is done (1).
    """
    _check_address(config)
    config = with_precision(config, recorded_precision(config.out))
    folder = SearchFolder(config)
    folder.check()
    cluster.check_start(config.address)
    check_trackers(config.trackers)
    for split in splits_of(config):
        proposer_of(config, split)
    open_once = _open_once()
    opened = _check_splits(config, open_once)
    folder.check_data(opened)
    with RunLock(config.out):
        folder.begin(opened)
        calibrations = Calibrations(folder)
        _make_labels(folder, calibrations, open_once)
        try:
            _search(folder, calibrations, open_once, len(next(iter(opened.values())).space.classes))
        except KeyboardInterrupt:
            count = sum(trial.finished for trial in folder.trials())
            echo(f"{count} finished trials are kept; run the same command again to resume", err=True)
            raise
        finally:
            summary.write(folder)
    echo("\n".join(summary.lines(folder)))
    _require_outcome(folder)


def _check_address(config: TuneConfig) -> None:
    if (config.address or os.environ.get("RAY_ADDRESS") or "").startswith("ray://"):
        raise UserError(
            "address: a search cannot run through ray://; "
            "run it on the cluster with address=auto, or send it with `segray submit tune ...`"
        )


_OF_A_SPLIT = ("images", "labelled", "not taught")
"""Starts of the lines about the data that differ between splits."""


def _open_once() -> OpenData:
    opened = cache(open_data)

    def open_once(data: DataConfig, seed: int) -> TrainingData:
        # Keys that say nothing of what is opened.
        return opened(data.model_copy(update={"calibrate": False, "clip_weights": None}), seed)

    return open_once


def _check_splits(config: TuneConfig, open_once: OpenData) -> dict[str, TrainingData]:
    """Open and check the data of every split before Ray starts."""
    base = train_config(config)
    if base.data.validation == NO_VALIDATION:
        raise UserError(f"data.validation={NO_VALIDATION}: a search compares trials by their validation mIoU")
    variants, opened = variants_of(config), {}
    for split in splits_of(config):
        chosen = of_split(base, split)
        opened[split] = open_once(chosen.data, chosen.seed)
        lines = data_lines(chosen, opened[split])
        if len(opened) == 1:
            show(lines)
            show(range_lines(opened[split]))
        else:
            show(text for text in lines if text.startswith(_OF_A_SPLIT))
        for variant in variants:
            check(of_split(variant, split), opened[split])
    return opened


def _make_labels(folder: SearchFolder, calibrations: Calibrations, open_once: OpenData) -> None:
    """Make the label sets of the first trials: what is wrong with their masks stops the search before it."""
    config = folder.config
    make_thresholds(config)
    for variant in variants_of(config):
        for split in splits_of(config) if variant.data.calibrate else ():
            if any(trial.finished for trial in folder.trials(split)):
                continue
            chosen = absolute(of_split(variant, split))
            for seed in range(config.seed, config.seed + config.search.seeds):
                data = open_once(chosen.data, seed)
                calibrations.make(split, chosen.model_copy(update={"seed": seed}), data)


def _require_outcome(folder: SearchFolder) -> None:
    for split in splits_of(folder.config):
        if folder.best(split) is None:
            reasons = [trial.reason for trial in folder.trials(split) if trial.reason]
            why = f": {reasons[-1]}" if reasons else ""
            raise UserError(f"data.labelled={split}: no trial ran to its end{why}", exit_code=1)


def _search(folder: SearchFolder, calibrations: Calibrations, open_once: OpenData, classes: int) -> None:
    """Train the remaining trials, then the finalists on further seeds, then the best on unseen seeds.

    Raises:
        UserError: a trial needs more than the cluster has.
    """
    _quieten()
    import ray

    from segray.tuning.tuner import Tuner

    config = folder.config
    cpus = config.train.num_cpus or 1.0

    @cache
    def put(data: DataConfig, seed: int, calibrated: str | None) -> ObjectRef:
        opened = open_once(data, seed)
        return ray.put(opened if calibrated is None else with_labels(opened, calibrated))

    def assign(job: Job) -> list[TrialRun]:
        runs = []
        for seed in job.seeds:
            # Images find their labels in the label set as it was, as in `segray train`.
            asked = absolute(configured(config, job.trial)).model_copy(update={"seed": seed})
            calibrated = None
            if asked.data.calibrate:
                calibrated = calibrations.make(job.trial.split, asked, open_once(asked.data, seed))
            chosen = absolute(folder.run_config(job.trial, seed))
            chosen = chosen.model_copy(update={"train": chosen.train.model_copy(update={"num_cpus": cpus})})
            may_stop = job.may_stop and seed == job.seeds[0]
            runs.append(TrialRun(job.trial, chosen, put(asked.data, seed, calibrated), may_stop))
        return runs

    def on_end(trial: Trial) -> None:
        table.row(trial)
        # The page is up to date while the search runs, and if it is killed.
        summary.write(folder)

    with cluster.session(config.address, config.grow) as resources:
        read = dict.fromkeys(place for variant in variants_of(config) for place in places(variant))
        require_shared(config.out, list(read))
        concurrent = _concurrent(config, resources, cpus)
        finished = [trial for trial in folder.trials() if trial.finished]
        plan = SearchPlan(folder, classes, on_end)
        table = Table([dimension.key for dimension in dimensions_of(config)], len(finished), plan.total)
        with actor_here(TrialCoordinator, config, finished) as coordinator:
            tuner = Tuner(config, coordinator, concurrent, assign, table.heartbeat)
            tuner.fit(plan)
            # The second rerun depends on the results of the first.
            if finals := RerunPlan("finals", folder, table.finals):
                tuner.fit(finals)
            if held_out := RerunPlan("held_out", folder, table.held_out):
                tuner.fit(held_out)


def _concurrent(config: TuneConfig, resources: cluster.Resources, cpus: float) -> int:
    """Number of trials that run at a time.

    Raises:
        UserError: there is no room for one.
    """
    workers = config.train.most_workers
    scaling_config(train_config(config), resources)
    room = resources.room(cpus) // workers
    if resources.gpus > 0:
        room = min(room, int(resources.gpus) // workers)
    return max(1, min(room, config.search.concurrent or room))


def _quieten() -> None:
    """Disable Tune's own tables, files and interrupt handler; to be called before Ray starts."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # A trial has several processes: if one per core starts at a time, Ray warns of their number.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "4")
