"""`segray train`: check the configuration and the data, train, export the results."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.paths import absolute
from segray.pipelines.engine import cluster, single_process
from segray.pipelines.engine.shared_storage import require_shared
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.printing import echo
from segray.pipelines.training import local
from segray.pipelines.training.auto_precision import recorded_precision, with_precision
from segray.pipelines.training.calibrated import calibrate_labels, check_calibration
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.summary import check_pixels, data_lines, range_lines
from segray.pipelines.training.data.training_data import NO_VALIDATION, open_data
from segray.pipelines.training.log_collector import log_collector
from segray.pipelines.training.mistakes import mistake_lines
from segray.pipelines.training.options import check_pseudo
from segray.pipelines.training.run_folder import CHECKPOINTS, HISTORY, RunFolder, TrainResult
from segray.pipelines.training.session import newest_first
from segray.pipelines.training.trackers import check_trackers
from segray.pipelines.training.trainer import (
    WorkerInputs,
    fit,
    places,
    tracker_folder,
    train_worker,
    watches,
)
from segray.pipelines.understood import show

if TYPE_CHECKING:
    from segray.pipelines.training.failures import Failure


def run(config: TrainConfig) -> None:
    """Train, or resume a run that stopped, and print the result.

    Raises:
        UserError: as `execute` raises.
    """
    echo(execute(config))


def execute(config: TrainConfig) -> TrainResult:
    """Train, or resume a run that stopped.

    Raises:
        UserError: bad data, masks, weights or options (2); the folder belongs to another run (2) or is in use
            (4); the loss diverged (1).
    """
    # Ray Train's workers run in another folder.
    config = absolute(config)
    config = with_precision(config, recorded_precision(config.out))
    folder = RunFolder(config)
    folder.check(may_move=True)
    if not storage.exists(storage.join(config.out, HISTORY)):
        cluster.check_start(config.address)
    check_trackers(config.trackers)
    with Waiting("the images to be listed and their masks checked"):
        data = open_data(config.data, config.seed, folder.corrections())
    show(data_lines(config, data))
    show(range_lines(data))
    folder.check_data(data)
    check(config, data)
    show(mistake_lines(config, data))
    with RunLock(config.out):
        folder.begin(data)
        failure = None if folder.finished() else _fit(config, data)
        folder.export()
    if failure:
        where = f"; the checkpoints before it are in {storage.display(config.out)}"
        raise UserError(failure.message + where * bool(folder.states()), exit_code=failure.exit_code)
    return folder.result()


def check(config: TrainConfig, data: TrainingData) -> None:
    """Check the data against the method, and the weights, before Ray starts.

    Raises:
        UserError: the method lacks labels or images, there are no validation images, or the weights are bad.
    """
    _check_data(config, data)
    _check_network(config, data)


def _check_data(config: TrainConfig, data: TrainingData) -> None:
    from segray.models.semi.methods import METHODS
    from segray.pipelines.training.build import class_weights

    pseudo = METHODS[config.method].pseudo
    if pseudo == "enhanced" and config.data.labels is None:
        raise UserError(
            f"data.labels: method {config.method} needs a label set; `segray annotate` makes one "
            "(without: supervised, fixmatch, unimatch, unimatch_v2)"
        )
    if config.data.calibrate and (config.data.labels is None or pseudo != "enhanced"):
        raise UserError(
            f"data.calibrate: method {config.method} with data.labels={config.data.labels} has no zero-shot "
            "labels to correct; set data.labels=DIR and a method that uses it, or data.calibrate=false"
        )
    if config.data.calibrate:
        check_calibration(config.data, data)
    check_pseudo(config, data)
    if pseudo != "none" and not data.unlabelled:
        raise UserError(
            f"data.unlabelled: method {config.method} needs images outside data.labelled="
            f"{config.data.labelled}, but there are none; label fewer, such as data.labelled=92 or 1/16"
        )
    if not data.validation and config.data.validation != NO_VALIDATION:
        raise UserError(
            f"data.validation: there is no validation image; data.validation={NO_VALIDATION} trains without"
        )
    if not data.validation and config.train.patience is not None:
        raise UserError("train.patience needs validation images, and data.validation=none has none")
    check_pixels(data)
    class_weights(config.loss, data.labelled_pixels)
    _check_batch(config)


def _check_batch(config: TrainConfig) -> None:
    """Refuse a single image per step where batch normalisation has nothing to compare it with."""
    from segray.models.segmenters.registry import NETWORKS

    train = config.train
    if (
        NETWORKS[config.network.name].needs_two
        and train.most_workers == 1
        and train.batch == train.accumulate
    ):
        raise UserError(
            f"train.batch={train.batch}, train.accumulate={train.accumulate}: {config.network.name} takes at "
            "least 2 images at once, as it normalises over the batch; raise train.batch"
        )


def _check_network(config: TrainConfig, data: TrainingData) -> None:
    """Check the network's name, packages and weights, without building it where that is not needed."""
    from segray.models.segmenters.registry import check_segmenter
    from segray.pipelines.training.finetune import check_start

    network, classes = config.network, len(data.space.classes)
    if network.checkpoint is not None and not newest_first(storage.join(config.out, CHECKPOINTS)):
        check_start(network, data.space.classes)
    try:
        check_segmenter(network.name, classes, weights=network.weights, pretrained=network.loads_encoder)
    except (ValueError, ImportError) as error:
        raise UserError(f"network: {error}") from error


def _fit(config: TrainConfig, data: TrainingData) -> Failure | None:
    """Train to the end, in this process or on a cluster; why, if the run stopped early."""
    if config.data.calibrate:
        calibrate_labels(config, data)
    if local.suits(config):
        return local.fit(config, data)
    single_process.tell_of_death(config.out)
    failure = _fit_on_cluster(config, data)
    single_process.forget_death(config.out)
    return failure


def _fit_on_cluster(config: TrainConfig, data: TrainingData) -> Failure | None:
    with cluster.session(config.address, config.grow) as resources, log_collector() as collector:
        require_shared(config.out, places(config))
        inputs = WorkerInputs(config, data, collector, tracker_folder(config), watches(config, resources))
        return fit(config, partial(train_worker, inputs), resources)
