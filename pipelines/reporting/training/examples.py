"""Choose the validation images that a trained network is least and most sure of, and render them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from segray.models.segmenters.inference import Inference
from segray.models.semi.methods import METHODS
from segray.pipelines.config.commands.train import NONE, TrainConfig
from segray.pipelines.config.loading import identity
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.received import ROOTS_KEY, absolute_roots, root_of
from segray.pipelines.io.uris import is_chained
from segray.pipelines.printing import visible
from segray.pipelines.reporting.label_set.samples import Legend
from segray.pipelines.reporting.training.history import TrainingRun, checkpoints
from segray.pipelines.reporting.training.samples import Example, ExampleRenderer, Network
from segray.pipelines.training.calibrated import labels_of
from segray.pipelines.training.checkpoints import STATE, CheckpointState
from segray.pipelines.training.data.datasets import LabelledImages
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.training_data import open_data
from segray.pipelines.training.data_record import DATA, stored_record, tells_validation
from segray.pipelines.training.run_folder import CONFIG, RunFolder
from segray.pipelines.training.session import device_of_worker
from segray.pipelines.training.trained import chosen_window, load_network

MAX_COMPARED = 500
"""Images that are predicted to choose from; of a larger set, evenly spaced ones."""

_ALLOW = f"{ROOTS_KEY}=FOLDER allows it"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """The chosen images, or the reason why there are none.

    Attributes:
        least: the least certain first.
        most: the most certain first, without those in `least`.
        n_compared: validation images that were compared.
        epoch: of the network's checkpoint; None if it is not in the history.
        problem: why there are no examples.
        labels_problem: why the labels of the run's label set are missing.
        data: the run's data; None if it cannot be opened.
    """

    least: list[Example] = field(default_factory=list)
    most: list[Example] = field(default_factory=list)
    n_compared: int = 0
    epoch: float | None = None
    problem: str = ""
    labels_problem: str = ""
    data: TrainingData | None = None


def make_examples(run: TrainingRun, legend: Legend, n: int, roots: Sequence[str] = ()) -> Examples:
    """Predict the validation images, and render the n least certain and the n most certain ones.

    Missing files are not an error here: `problem` and `labels_problem` hold the reason.

    Args:
        run: the run.
        legend: names and colours of the run's classes.
        n: number of images in each group.
        roots: folders of the user where the data may be. Elsewhere it must be local, and what the run's own
            record tells: config.yaml may be anyone's, and the page may be sent back.
    """
    if run.config is None:
        return Examples(problem=run.config_problem)
    data, missing = None, ""
    try:
        data, missing = _known_data(run, run.config, absolute_roots([run.out, *roots]))
        return _render(run, run.config, data, missing, legend, n)
    except (UserError, OSError, ValueError, ImportError) as error:
        return Examples(problem=_one_line(error), labels_problem=missing, data=data)


def tau_of(config: TrainConfig) -> float:
    """The confidence from which the network's class replaces the zero-shot class."""
    tau = config.pseudo.tau
    return METHODS[config.method].default_tau if tau is None else tau


def extremes(certainty: Mapping[int, float], n: int) -> tuple[list[int], list[int]]:
    """The n keys of the smallest values, smallest first, and of the n largest; no key is in both."""
    rising = sorted(certainty, key=lambda key: (certainty[key], key))
    half = min(n, (len(rising) + 1) // 2)
    return rising[:half], rising[half:][::-1][:n]


def _known_data(run: TrainingRun, config: TrainConfig, roots: Sequence[str]) -> tuple[TrainingData, str]:
    """`_open`, of data of the user's folders, or that whoever made the run knows.

    Raises:
        UserError: other data, or none; without a word of what other files hold.
    """
    _check_places(config, roots)
    (root,) = absolute_roots([config.data.root])
    if root_of(root, roots) is not None:
        return _open(config)
    where = f"data.root={storage.display(root)}"
    try:
        data, missing = _open(config)
    except (UserError, OSError, ValueError):
        raise UserError(f"{where} cannot be opened as {CONFIG} says; {ROOTS_KEY}=FOLDER shows why") from None
    if tells_validation(stored_record(run.out), data):
        return data, missing
    raise UserError(f"{where} is not the data that {DATA} tells of, and {CONFIG} may be anyone's; {_ALLOW}")


def _check_places(config: TrainConfig, roots: Sequence[str]) -> None:
    """Refuse buckets and hosts that only a received file names.

    Raises:
        UserError: the first one.
    """
    values = {key: value for key, value in identity(config).items() if key.startswith("data.")}
    for key, value in values.items():
        for place in value.split(",") if isinstance(value, str) else ():
            remote = is_chained(place) or not storage.is_local(place)
            if remote and root_of(place, roots) is None:
                raise UserError(
                    f"{key}={storage.display(place)} is in {CONFIG}, which may be anyone's; {_ALLOW}"
                )


def _open(config: TrainConfig) -> tuple[TrainingData, str]:
    """The run's data; if only its label set cannot be read, the data without it, and the reason."""
    try:
        return open_data(config.data, config.seed, RunFolder(config).corrections()), ""
    except (UserError, OSError) as error:
        if config.data.labels is None or config.data.labelled == NONE:
            raise
        without = config.data.model_copy(update={"labels": None})
        return open_data(without, config.seed), _one_line(error)


def _render(
    run: TrainingRun, config: TrainConfig, data: TrainingData, missing: str, legend: Legend, n: int
) -> Examples:
    network, state = _network(run.out, tau_of(config))
    if list(state["classes"]) != list(data.space.classes):
        raise UserError("the classes of the data have changed since training")
    certainty = _certainty(network, LabelledImages(data.validation))
    least, most = extremes(certainty, n)
    samples = [data.validation[i] for i in (*least, *most)]
    labels = None if missing else labels_of(config)
    renderer = ExampleRenderer(network, samples, labels, legend, data.space.classes)
    examples = [renderer.render(i) for i in range(len(samples))]
    return Examples(
        least=examples[: len(least)],
        most=examples[len(least) :],
        n_compared=len(certainty),
        epoch=next((entry.epoch for entry in run.history if entry.step == state.get("step")), None),
        labels_problem=missing,
        data=data,
    )


def _network(out: str, tau: float) -> tuple[Network, CheckpointState]:
    """The best network, or the newest of an unfinished run; damaged checkpoints are skipped."""
    problem = UserError("no checkpoint is left")
    for uri in checkpoints(out):
        if storage.exists(storage.join(uri, STATE)):
            try:
                segmenter, state = load_network(uri)
            except UserError as error:
                problem = error
                continue
            inference = Inference(chosen_window(state, None))
            return Network(segmenter.to(device_of_worker()), inference, tau), state
    raise problem


def _certainty(network: Network, images: LabelledImages) -> dict[int, float]:
    """Mean probability of the predicted classes, by index of the image."""
    count = min(len(images), MAX_COMPARED)
    _log.info("predicting %d validation images", count)
    indices = [i * len(images) // count for i in range(count)]
    return {i: float(network.predict(images[i][0])[1].mean()) for i in indices}


def _one_line(error: Exception) -> str:
    return visible(" ".join(str(error).split())[:400] or type(error).__name__)
