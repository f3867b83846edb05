"""Validation images of a training run: image, zero-shot label, enhanced label, prediction, truth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.inference import image_logits
from models.label_space import LabelSpace
from models.methods import METHODS
from models.metrics import class_iou, confusion_matrix, mean_iou
from models.objective import IGNORE
from models.segmenter import Segmenter
from pipelines.config.train import TrainConfig
from pipelines.errors import UserError
from pipelines.reporting import pictures
from pipelines.reporting.samples import Legend, visible
from pipelines.reporting.training_history import TrainingRun, checkpoints
from pipelines.store import storage
from pipelines.training.checkpoints import STATE
from pipelines.training.data import LabelledImages, TrainingData, UnlabelledImages, open_data
from pipelines.training.session import device_of_worker
from pipelines.training.trained import chosen_window, load_network

LOOKED_AT = 500
"""Validation images that the network labels to find the least and the most certain; of more, evenly spread."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Panel:
    """One label map of an image.

    Attributes:
        name: whose label it is.
        picture: data URI; "" where there is no label.
        problem: why there is none.
        miou: over the classes in it and in the truth; None for the truth itself.
    """

    name: str
    picture: str
    problem: str = ""
    miou: float | None = None


@dataclass(frozen=True)
class TrainingSample:
    """What the page shows of one validation image.

    Attributes:
        ratio: width / height of the picture boxes, kept within reason for very long images.
        confidence: mean over the pixels of the network's greatest probability.
        from_model: share of the pixels whose enhanced label is the network's prediction; None without labels.
        classes: (name, colour, IoU of the prediction) of each class but 0 in truth or prediction.
    """

    image_id: str
    size: str
    ratio: float
    confidence: float
    miou: float
    photo: str
    panels: list[Panel]
    classes: list[tuple[str, str, float]]
    from_model: float | None = None


@dataclass(frozen=True)
class Pictures:
    """The chosen images, or why there are none.

    Attributes:
        least: the least certain first.
        most: the most certain first; none of `least`.
        images: validation images; `looked_at` of them were compared.
        epoch: that the network's checkpoint is of; None where the history does not have it.
        problem: why there are no pictures.
        labels_problem: why there are no zero-shot labels, where the run has a label set.
        data: the run's data, where it could be opened.
    """

    least: list[TrainingSample] = field(default_factory=list)
    most: list[TrainingSample] = field(default_factory=list)
    images: int = 0
    looked_at: int = 0
    epoch: float | None = None
    problem: str = ""
    labels_problem: str = ""
    data: TrainingData | None = None


@dataclass(frozen=True)
class _Answer:
    """The network's answer for one image: label, and what probability it has; [H, W] on the CPU."""

    label: Tensor
    probability: Tensor


def make_pictures(run: TrainingRun, n: int) -> Pictures:
    """Let the network label the validation images, and draw the n it is least and the n it is most sure of.

    Nothing that is missing is an error here: `Pictures.problem` tells it.
    """
    if run.config is None:
        return Pictures(problem=run.config_problem)
    data, labels_problem = None, ""
    try:
        data, labels_problem = _open(run.config)
        return _make(run, run.config, data, labels_problem, n)
    except (UserError, OSError, ValueError, ImportError) as error:
        return Pictures(problem=_one_line(error), labels_problem=labels_problem, data=data)


def _open(config: TrainConfig) -> tuple[TrainingData, str]:
    """The run's data; without its label set, and the reason, where only that cannot be read."""
    try:
        return open_data(config.data, config.seed), ""
    except (UserError, OSError) as error:
        if config.data.labels is None:
            raise
        return open_data(config.data.model_copy(update={"labels": None}), config.seed), _one_line(error)


def _make(run: TrainingRun, config: TrainConfig, data: TrainingData, labels_problem: str, n: int) -> Pictures:
    network, state = _network(run.out)
    if tuple(state["classes"]) != data.space.classes:
        raise UserError("the classes of the data are no longer those that the network learnt")
    window = chosen_window(state, None)
    chosen = _spread(len(data.validation))
    _log.info("the network labels %d validation images", len(chosen))
    certainty = _certainty(network, [data.validation[i].image_id for i in chosen], data, chosen, window)
    least, most = extremes(certainty, n)
    artist = _Artist(config, data, network, window, [*least, *most], with_labels=not labels_problem)
    return Pictures(
        least=[artist.draw(i) for i in least],
        most=[artist.draw(i) for i in most],
        images=len(data.validation),
        looked_at=len(chosen),
        epoch=next((e.epoch for e in run.history if e.step == state.get("step")), None),
        labels_problem=labels_problem,
        data=data,
    )


def _network(out: str) -> tuple[Segmenter, dict[str, object]]:
    """The best network, or the newest of a run that has not ended; damaged checkpoints are passed over."""
    problem = UserError("no checkpoint is left")
    for uri in checkpoints(out):
        if not storage.exists(storage.join(uri, STATE)):
            continue
        try:
            network, state = load_network(uri)
        except UserError as error:
            problem = error
            continue
        return network.to(device_of_worker()), state
    raise problem
