"""A trained network: from the files of a run to label maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import IGNORE_INDEX, hidden_characters, ignore_index_of
from segray.models.segmenters.inference import WHOLE, Inference, Window, predict, window_of
from segray.models.segmenters.registry import Segmenter, build_segmenter, check_segmenter
from segray.models.segmenters.views import Views
from segray.pipelines.config.commands.train import AugmentConfig
from segray.pipelines.config.previous import current_value
from segray.pipelines.config.shared import ViewsConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.training.checkpoints import (
    STATE,
    CheckpointState,
    check_weights,
    load_checkpoint,
    weights_file,
)
from segray.pipelines.training.run_folder import BEST, CHECKPOINTS, CONFIG, LAST
from segray.pipelines.training.session import newest_first
from segray.pipelines.training.single_file import is_single

_NOT_FINITE = (
    "the network's output is not finite: its weights are damaged, or their training diverged",
    "the network's output is not finite: numbers overflow in fp16; precision=bf16 or fp32 has room for them",
)


def load_network(uri: str) -> tuple[Segmenter, CheckpointState]:
    """The network that predicts, in evaluation mode on the CPU, and the state of its checkpoint.

    Args:
        uri: folder of a checkpoint, or of a training run: then its best one.

    Raises:
        UserError: no checkpoint there, a damaged one, or one of a network that cannot be built here.
    """
    checkpoint = load_checkpoint(find_checkpoint(uri))
    name, names = stored_network(checkpoint.state, checkpoint.uri)
    classes = len(names)
    with _user_errors(checkpoint.uri):
        network = build_segmenter(name, classes, pretrained=False)
    try:
        network.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        where = storage.display(checkpoint.uri)
        raise UserError(
            f"checkpoint={where}: the weights are not those of {name}, {classes} classes"
        ) from error
    return network.eval(), checkpoint.state


def check_network(uri: str) -> CheckpointState:
    """The state of the checkpoint that `load_network` loads, checked without building its network.

    Args:
        uri: see `load_network`.

    Raises:
        UserError: as `load_network`, except for weights that do not fit the network.
    """
    folder = find_checkpoint(uri)
    state = check_weights(folder)
    name, classes = stored_network(state, folder)
    with _user_errors(folder):
        check_segmenter(name, len(classes), pretrained=False)
    return state


def stored_network(state: CheckpointState, uri: str) -> tuple[str, tuple[str, ...]]:
    """Name of a checkpoint's network, and the name of each class id.

    Raises:
        UserError: the state does not have them.
    """
    where = storage.display(uri)
    try:
        classes, network = list(state["classes"]), current_value("network.name", str(state["network"]))
    except (KeyError, TypeError):
        raise UserError(f"checkpoint={where}: {STATE} names no network or no classes") from None
    if not all(map(_is_name, classes)):
        raise UserError(f"checkpoint={where}: {STATE} has classes that are not names, or hide characters")
    return network, tuple(classes)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and not hidden_characters(value)


@contextmanager
def _user_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, ImportError) as error:
        raise UserError(f"checkpoint={storage.display(uri)}: {error}") from error


def find_checkpoint(uri: str) -> str:
    """The checkpoint at a URI: the folder itself, the best one of a training run, or a file of `export`.

    Raises:
        UserError: it is neither; for an unfinished run the message names its newest checkpoint.
    """
    if is_single(uri) and storage.exists(uri):
        return uri
    for folder in (uri, storage.join(uri, BEST)):
        if storage.exists(storage.join(folder, STATE)):
            return folder
    missing = f"neither {STATE} nor {BEST}/{STATE}"
    newest = newest_first(storage.join(uri, CHECKPOINTS))
    hint = f"; the run has not ended, its newest is {storage.display(newest[0])}" if newest else ""
    raise UserError(f"checkpoint={storage.display(uri)}: no checkpoint there, {missing}{hint}")


def run_folder(uri: str) -> str:
    """The folder of the training run that a checkpoint lies in; `uri` itself if it lies in none.

    Of a file that `export` wrote, the folder.
    """
    if is_single(uri):
        return _split(uri)[0]
    if not storage.exists(storage.join(uri, STATE)):
        return uri
    parent, name = _split(uri)
    grandparent, above = _split(parent)
    folder = parent if name in (BEST, LAST) else grandparent if above == CHECKPOINTS else uri
    return folder if storage.exists(storage.join(folder, CONFIG)) else uri


def _split(uri: str) -> tuple[str, str]:
    """Parent folder and last name of a path or URI."""
    if storage.is_local(uri):
        path = storage.local_path(uri)
        return str(path.parent), path.name
    base, options = storage.split_query(uri)
    parent, _, name = base.rstrip("/").rpartition("/")
    return (uri, "") if parent.endswith("/") else (f"{parent}{options}", name)


def weights_sha256(state: CheckpointState) -> str:
    """Checksum of the weights that predict, from a checkpoint's state."""
    return str(state["sha256"][weights_file(state)])


def chosen_window(state: CheckpointState, window: int | None) -> Window:
    """Which images are predicted piece by piece.

    Args:
        state: of the checkpoint; how its run validated is the default.
        window: the user's choice; 0: whole images, None: the default.
    """
    crop = state.get("config", {}).get("augment.crop")
    return window_of(named_window(state, window), crop if isinstance(crop, int) else AugmentConfig().crop)


def views_of(config: ViewsConfig) -> Views:
    """The views that a configuration means."""
    return Views(config.flip, config.scales)


def named_window(state: CheckpointState, window: int | None) -> int | None:
    """Side of the window that is chosen here, or was for the run; 0: whole images, None: neither."""
    return state.get("window") if window is None else window


@dataclass(frozen=True)
class PredictedImage:
    """What a network says of an image.

    Attributes:
        label: class ids [H, W], uint8 or uint16.
        confidence: the probability of that class, float32 [H, W].
    """

    label: LabelMap
    confidence: NDArray[np.float32]


def predict_image(
    network: Segmenter,
    pixels: NDArray[np.uint8],
    inference: Inference = WHOLE,
    warn: Callable[[str], None] | None = None,
    *,
    ids: int = IGNORE_INDEX,
) -> PredictedImage:
    """Classes and confidences of an image [H, W, 3] RGB at its own size.

    Args:
        network: in evaluation mode; its device is used.
        pixels: a writable array.
        inference: how.
        warn: receives a line if memory ran out for the image in one piece.
        ids: how many classes the network has.

    Raises:
        ImageProblem: the network's output is not finite.
    """
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    prediction = predict(network, image, inference, warn)
    confidence = prediction.confidence.cpu().numpy()
    if not np.isfinite(confidence).all():
        raise ImageProblem("error", _NOT_FINITE[inference.precision == "fp16"])
    label = prediction.label.cpu().numpy().astype(label_dtype(ignore_index_of(ids)))
    return PredictedImage(label, confidence)


def predict_label(
    network: Segmenter, pixels: NDArray[np.uint8], inference: Inference = WHOLE, *, ids: int = IGNORE_INDEX
) -> LabelMap:
    """The label of `predict_image`."""
    return predict_image(network, pixels, inference, ids=ids).label
