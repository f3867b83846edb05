"""`segray tune`: search the keys of `segray train`, one family of trials a split, on Ray Tune."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from typing import Any

import click

from segray.pipelines.commands.train import check
from segray.pipelines.config.commands.annotate import LabelConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.tune import TuneConfig, train_config
from segray.pipelines.config.paths import absolute
from segray.pipelines.config.search_space import THRESHOLD
from segray.pipelines.engine import cluster
from segray.pipelines.engine.shared_storage import require_shared
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.trackers import check_trackers
from segray.pipelines.training.trainer import scaling_config
from segray.tuning import summary
from segray.tuning.ledger import Ledger, Trial, threshold_labels
from segray.tuning.plan import Given, RerunPlan, SearchPlan, dimensions_of, splits_of
from segray.tuning.shared_data import SharedData
from segray.tuning.space import make_proposer
from segray.tuning.table import Table
from segray.tuning.trial import Desk, drive

_DRIVER_MEMORY = 64 * 2**20
"""What Ray reserves for a trial's driver. Every node has memory, whereas a share of a CPU would leave less
than a whole one for the trainer beside it."""


def run(config: TuneConfig) -> None:
    """Search, or go on where a search stopped, and write tables, configurations and the page.

    Raises:
        UserError: bad data, space or options (2); the folder belongs to another search (2) or is in use (4);
            no trial of a split ran to its end (1).
    """
    _check_address(config)
    ledger = Ledger(config)
    ledger.check()
    check_trackers(config.trackers)
    make_proposer(config.search.algorithm, dimensions_of(config), config.seed, "")
    data = SharedData()
    classes = _check_splits(config, data)
    with RunLock(config.out):
        ledger.begin()
        _make_labels(config)
        try:
            Search(config, ledger, data, classes).run()
        except KeyboardInterrupt:
            kept = sum(one.finished for one in ledger.trials())
            click.echo(f"{kept} finished trials are kept; the same command goes on", err=True)
            raise
        finally:
            summary.write(ledger)
    click.echo("\n".join(summary.lines(ledger)))
    _require_outcome(config, ledger)


def _check_address(config: TuneConfig) -> None:
    if (config.address or os.environ.get("RAY_ADDRESS") or "").startswith("ray://"):
        raise UserError(
            "address: a search runs on the cluster itself, not through ray://; "
            "run it there with address=auto, or send it with `segray submit tune ...`"
        )


def _check_splits(config: TuneConfig, data: SharedData) -> int:
    """Open the data of every split, so that what is wrong with it is told before Ray starts; the classes."""
    base = train_config(config)
    opened = []
    for split in splits_of(config):
        chosen = base.model_copy(update={"data": base.data.model_copy(update={"labelled": split})})
        opened.append(data.open(chosen))
        check(chosen, opened[-1])
    return len(opened[0].space.classes)


def _make_labels(config: TuneConfig) -> None:
    """A label set for each value of `label.threshold`, once, whatever the trials do."""
    for one in dimensions_of(config):
        for threshold in one.values if one.key == THRESHOLD else ():
            target = relabelling(config, threshold)
            with contextlib.redirect_stdout(io.StringIO()):
                from segray.pipelines.commands import relabel

                relabel.run(target)
            click.echo(f"label.threshold={threshold}: {storage.display(target.out)}", err=True)


def relabelling(config: TuneConfig, threshold: str) -> RelabelConfig:
    """How a label set is made that differs from `data.labels` in its threshold alone."""
    labels = config.data.labels or ""
    made_with = LabelStore(labels).provenance["config"]
    given = {name: made_with[f"label.{name}"] for name in LabelConfig.model_fields}
    return RelabelConfig(
        labels=labels,
        out=threshold_labels(config.out, threshold),
        classes=made_with["classes"],
        label=LabelConfig.model_validate({**given, "threshold": float(threshold)}),
    )


def _require_outcome(config: TuneConfig, ledger: Ledger) -> None:
    for split in splits_of(config):
        if ledger.best(split) is None:
            reasons = [one.reason for one in ledger.trials(split) if one.reason]
            why = f": {reasons[-1]}" if reasons else ""
            raise UserError(f"data.labelled={split}: no trial ran to its end{why}", exit_code=1)


class Search:
    """A search on a cluster.

    Args:
        config: what is searched, and how.
        ledger: what is known so far, and where it is kept.
        data: what was opened so far.
        classes: how many there are.
    """

    def __init__(self, config: TuneConfig, ledger: Ledger, data: SharedData, classes: int) -> None:
        self._config, self._ledger, self._data = config, ledger, data
        self._classes = classes
        self._cpus = 1.0
        self._desk: Any = None

    def run(self) -> None:
        """Run what is left of the search, then the further seeds of the finalists, then the unseen ones.

        Raises:
            UserError: a trial asks for more than the cluster has.
        """
        _quieten_tune()
        config = self._config
        with cluster.session(config.address, config.grow) as resources:
            require_shared(config.out, [place for place in (config.data.root, config.data.labels) if place])
            self._cpus = config.train.num_cpus or 1.0
            at_once = self._at_once(resources)
            self._desk = _desk_here()
            keys = [one.key for one in dimensions_of(config)]
            finished = sum(one.finished for one in self._ledger.trials())
            table = Table(keys, 0, finished)

            def ended(trial: Trial) -> None:
                table.row(trial)
                # The page can be looked at while the search runs, and is there when it is killed.
                summary.write(self._ledger)

            plan = SearchPlan(config, self._ledger, self._classes, self._describe, ended)
            table.total = plan.total
            self._fit(plan, table, at_once)
            self._fit(RerunPlan("finals", self._ledger, self._describe, table.finals), table, at_once)
            self._fit(RerunPlan("held_out", self._ledger, self._describe, table.held_out), table, at_once)

    def _at_once(self, resources: cluster.Resources) -> int:
        """Trials that there is room for at a time.

        Raises:
            UserError: there is none for a single one.
        """
        train = self._config.train
        scaling_config(train_config(self._config), resources)
        room = resources.room(self._cpus) // train.workers
        if resources.gpus > 0:
            room = min(room, int(resources.gpus) // train.workers)
        return max(1, min(room, self._config.search.concurrent or room))

    def _describe(self, trial: Trial, seeds: list[int], judged: bool) -> Given:
        runs = []
        for seed in seeds:
            config = absolute(self._ledger.run_config(trial, seed))
            config = config.model_copy(
                update={"train": config.train.model_copy(update={"num_cpus": self._cpus})}
            )
            runs.append(
                {"config": config.model_dump(mode="json"), "data": self._data.lend(config, self._desk)}
            )
        return {"file": trial.file, "judged": judged, "runs": runs}

    def _fit(self, plan: Any, table: Table, at_once: int) -> None:
        if isinstance(plan, RerunPlan) and not len(plan):
            return
        import ray
        from ray import tune

        from segray.tuning.schedule import PerSplitASHA, TrialSearcher, Watch

        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        desk = self._desk
        suggestions = TrialSearcher(plan)
        families = PerSplitASHA(self._config, suggestions, lambda *said: ray.get(desk.judge.remote(*said)))
        families.replay([one for one in self._ledger.trials() if one.finished])
        watch = Watch(
            plan, suggestions, lambda: table.beat(families.latest, suggestions.running()), self._release
        )
        trainable = tune.with_resources(
            tune.with_parameters(drive, desk=desk), tune.PlacementGroupFactory([{"memory": _DRIVER_MEMORY}])
        )
        with tempfile.TemporaryDirectory(prefix="segray-tune-") as folder:
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=suggestions,
                    scheduler=families,
                    num_samples=-1,
                    max_concurrent_trials=at_once,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=folder,
                    verbose=0,
                    callbacks=[watch],
                    failure_config=tune.FailureConfig(max_failures=self._config.train.max_failures),
                ),
            ).fit()

    def _release(self, file: str) -> None:
        """Ray keeps the room of a trainer whose driver died; the trial would wait for it for ever."""
        import ray

        group = ray.get(self._desk.release.remote(file))
        if group is not None:
            ray.util.remove_placement_group(group)


def _desk_here() -> Any:
    """A `Desk` on this node: what is said there must not be lost with any other."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Desk).remote()


def _quieten_tune() -> None:
    """Tune's own tables, files and interrupt handler would get in the way of ours; set before Ray starts."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # A trial is four processes: with one start a core at a time, Ray warns of their number.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "4")
