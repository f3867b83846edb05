"""Which validation images of a training run are worth a look, drawn by its trained network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from segray.models.semi.methods import METHODS
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.reporting.label_set.samples import Legend, visible
from segray.pipelines.reporting.training.history import TrainingRun, checkpoints
from segray.pipelines.reporting.training.samples import Artist, Network, TrainingSample
from segray.pipelines.training.checkpoints import STATE, CheckpointState
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.session import device_of_worker
from segray.pipelines.training.trained import chosen_window, load_network

LOOKED_AT = 500
"""Images that the network labels to find the least and the most certain; of more, evenly spread ones."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """The chosen images, or why there are none.

    Attributes:
        least: the least certain first.
        most: the most certain first; none of `least`.
        looked_at: validation images that were compared.
        epoch: of the network's checkpoint; None where the history does not have it.
        problem: why there are no pictures.
        labels_problem: why there are no zero-shot labels, where the run has a label set.
        data: the run's data, where it could be opened.
    """

    least: list[TrainingSample] = field(default_factory=list)
    most: list[TrainingSample] = field(default_factory=list)
    looked_at: int = 0
    epoch: float | None = None
    problem: str = ""
    labels_problem: str = ""
    data: TrainingData | None = None


def make_pictures(run: TrainingRun, legend: Legend, n: int) -> Pictures:
    """Let the network label the validation images, and draw the n it is least and the n it is most sure of.

    Nothing that is missing is an error here: `problem` and `labels_problem` tell it.

    Args:
        run: what the folder says.
        legend: names and colours of the run's classes.
        n: at most so many of each.
    """
    if run.config is None:
        return Pictures(problem=run.config_problem)
    data, missing = None, ""
    try:
        data, missing = _open(run.config)
        return _draw(run, run.config, data, missing, legend, n)
    except (UserError, OSError, ValueError, ImportError) as error:
        return Pictures(problem=_one_line(error), labels_problem=missing, data=data)


def tau_of(config: TrainConfig) -> float:
    """The confidence from which a run believes its network."""
    given = config.pseudo.tau
    return METHODS[config.method].default_tau if given is None else given


def extremes(certainty: Mapping[int, float], n: int) -> tuple[list[int], list[int]]:
    """The n keys of the least values, the least first, and the n of the greatest; none is in both."""
    rising = sorted(certainty, key=lambda key: (certainty[key], key))
    half = min(n, (len(rising) + 1) // 2)
    return rising[:half], rising[half:][::-1][:n]


def _open(config: TrainConfig) -> tuple[TrainingData, str]:
    """The run's data; without its label set, and the reason, where only that cannot be read."""
    try:
        return open_data(config.data, config.seed), ""
    except (UserError, OSError) as error:
        if config.data.labels is None:
            raise
        without = config.data.model_copy(update={"labels": None})
        return open_data(without, config.seed), _one_line(error)


def _draw(
    run: TrainingRun, config: TrainConfig, data: TrainingData, missing: str, legend: Legend, n: int
) -> Pictures:
    network, state = _network(run.out, tau_of(config))
    if list(state["classes"]) != list(data.space.classes):
        raise UserError("the data's classes are no longer those that the network learnt")
    certainty = _certainty(network, LabelledImages(data.validation))
    least, most = extremes(certainty, n)
    items = [data.validation[i] for i in (*least, *most)]
    artist = Artist(network, items, None if missing else config.data.labels, legend, data.space.classes)
    samples = [artist.draw(i) for i in range(len(items))]
    return Pictures(
        least=samples[: len(least)],
        most=samples[len(least) :],
        looked_at=len(certainty),
        epoch=next((entry.epoch for entry in run.history if entry.step == state.get("step")), None),
        labels_problem=missing,
        data=data,
    )


def _network(out: str, tau: float) -> tuple[Network, CheckpointState]:
    """The best network, or the newest of a run that has not ended; what is damaged is passed over."""
    problem = UserError("no checkpoint is left")
    for uri in checkpoints(out):
        if storage.exists(storage.join(uri, STATE)):
            try:
                segmenter, state = load_network(uri)
            except UserError as error:
                problem = error
                continue
            return Network(segmenter.to(device_of_worker()), chosen_window(state, None), tau), state
    raise problem


def _certainty(network: Network, images: LabelledImages) -> dict[int, float]:
    """Mean probability of the network's answer for each image that is looked at, by index."""
    count = min(len(images), LOOKED_AT)
    _log.info("the network labels %d validation images", count)
    chosen = [i * len(images) // count for i in range(count)]
    return {i: float(network.answer(images[i][0])[1].mean()) for i in chosen}


def _one_line(error: Exception) -> str:
    return visible(" ".join(str(error).split())[:400] or type(error).__name__)
