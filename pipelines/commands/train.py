"""`segray train`: checks, then one Ray Train run, and what it leaves behind."""

from __future__ import annotations

import logging

import click

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.paths import absolute
from segray.pipelines.engine import cluster
from segray.pipelines.engine.shared_storage import require_shared
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.training.data.training_data import TrainingData, open_data
from segray.pipelines.training.run_folder import RunFolder
from segray.pipelines.training.trackers import check_trackers
from segray.pipelines.training.trainer import log_collector, logs_of, scaling, trainer, work

_log = logging.getLogger(__name__)


def run(config: TrainConfig) -> None:
    """Train, or go on where a run stopped, and print the outcome.

    Raises:
        UserError: bad data, masks, weights or options (2); the folder belongs to another run (2) or is in use
            (4); the loss diverged (1).
    """
    # Ray Train moves its workers into a folder of theirs.
    config = absolute(config)
    folder = RunFolder(config)
    folder.check()
    check_trackers(config.trackers)
    data = open_data(config.data, config.seed)
    check(config, data)
    with RunLock(config.out):
        folder.begin(data)
        stopped = None if folder.finished() else _fit(config, data)
        folder.export()
    if stopped:
        raise UserError(
            f"{stopped}; the checkpoints before it are in {storage.display(config.out)}", exit_code=1
        )
    click.echo("\n".join(folder.summary()))


def check(config: TrainConfig, data: TrainingData) -> None:
    """Refuse what cannot be trained, before Ray starts.

    Raises:
        UserError: the method lacks labels or images, there is nothing to validate on, or bad weights.
    """
    _check_data(config, data)
    _check_network(config, data)


def _check_data(config: TrainConfig, data: TrainingData) -> None:
    from segray.models.semi.methods import METHODS

    pseudo = METHODS[config.method].pseudo
    if pseudo == "enhanced" and config.data.labels is None:
        raise UserError(
            f"data.labels: method {config.method} needs a label set; `segray annotate` makes one "
            "(without: supervised, fixmatch, unimatch, unimatch_v2)"
        )
    if pseudo != "none" and not data.unlabelled:
        raise UserError(
            f"data.unlabelled: method {config.method} needs images that are not in data.labelled="
            f"{config.data.labelled}, there are none; label fewer, such as data.labelled=92 or 1/16"
        )
    if not data.validation:
        raise UserError("data.validation: there is no image to validate on")


def _check_network(config: TrainConfig, data: TrainingData) -> None:
    """Load the weights once here, so that what is wrong with them is told before Ray starts."""
    from segray.models.segmenters.registry import build_segmenter

    given = config.network
    try:
        build_segmenter(
            given.name, len(data.space.classes), weights=given.weights, pretrained=given.pretrained
        )
    except (ValueError, ImportError) as error:
        raise UserError(f"network: {error}") from error


def _fit(config: TrainConfig, data: TrainingData) -> str | None:
    """Run the workers to the end; why they stopped early, if they did."""
    with cluster.session(config.address, config.grow) as resources, log_collector() as collector:
        require_shared(config.out, [place for place in (config.data.root, config.data.labels) if place])
        given = {"config": config, "data": data, "log_collector": collector, "logs": logs_of(config)}
        return trainer(config, work, given, scaling(config, resources)).fit().return_value
