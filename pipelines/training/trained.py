"""A trained network, from the files of a run to label maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segray.models.segmenters.inference import image_logits
from segray.models.segmenters.registry import Segmenter, build_segmenter
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.checkpoints import MODEL, STATE, TEACHER, load_checkpoint
from segray.pipelines.training.run_folder import BEST, CHECKPOINTS, CONFIG, LAST
from segray.pipelines.training.session import newest_first


def load_network(uri: str) -> tuple[Segmenter, dict[str, Any]]:
    """The network that predicts, in evaluation mode on the CPU, and the checkpoint's state.

    Args:
        uri: folder of a checkpoint, or of a training run: then its best one.

    Raises:
        UserError: no checkpoint there, a damaged one, or one of a network that cannot be built here.
    """
    checkpoint = load_checkpoint(find_checkpoint(uri))
    state, where = checkpoint.state, storage.display(checkpoint.uri)
    try:
        name, classes = str(state["network"]), len(state["classes"])
    except (KeyError, TypeError):
        raise UserError(f"checkpoint={where}: {STATE} names no network or no classes") from None
    try:
        network = build_segmenter(name, classes, pretrained=False)
    except (ValueError, ImportError) as error:
        raise UserError(f"checkpoint={where}: {error}") from error
    try:
        network.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise UserError(
            f"checkpoint={where}: the weights are not those of {name}, {classes} classes"
        ) from error
    return network.eval(), state


def find_checkpoint(uri: str) -> str:
    """The checkpoint that a folder is, or, where it is a training run, its best.

    Raises:
        UserError: it is neither; for a run that has not ended the message names its newest checkpoint.
    """
    for folder in (uri, storage.join(uri, BEST)):
        if storage.exists(storage.join(folder, STATE)):
            return folder
    looked_for = f"neither {STATE} nor {BEST}/{STATE}"
    newest = newest_first(storage.join(uri, CHECKPOINTS))
    hint = f"; the run has not ended, its newest is {storage.display(newest[0])}" if newest else ""
    raise UserError(f"checkpoint={storage.display(uri)}: no checkpoint there, {looked_for}{hint}")


def run_folder(uri: str) -> str:
    """The folder of the training run that a checkpoint lies in; `uri` itself where it lies in none."""
    if not storage.exists(storage.join(uri, STATE)):
        return uri
    parent, name = _split(uri)
    grandparent, above = _split(parent)
    folder = parent if name in (BEST, LAST) else grandparent if above == CHECKPOINTS else uri
    return folder if storage.exists(storage.join(folder, CONFIG)) else uri


def _split(uri: str) -> tuple[str, str]:
    """The folder above, and the last name."""
    if storage.is_local(uri):
        path = storage.local_path(uri)
        return str(path.parent), path.name
    base, options = storage.split_query(uri)
    parent, _, name = base.rstrip("/").rpartition("/")
    return (uri, "") if parent.endswith("/") else (f"{parent}{options}", name)


def weights_sha256(state: dict[str, Any]) -> str:
    """Checksum of the weights that predict, from a checkpoint's state."""
    sums = state["sha256"]
    return str(sums.get(TEACHER) or sums[MODEL])


def chosen_window(state: dict[str, Any], window: int | None) -> int | None:
    """Side of the sliding window, or None for whole images.

    Args:
        state: of the checkpoint, whose window is the default.
        window: what the user wants; 0: whole images, None: the default.
    """
    return (state.get("window") if window is None else window) or None


def predict_label(network: Segmenter, pixels: NDArray[np.uint8], window: int | None) -> NDArray[np.uint8]:
    """Class ids [H, W] of an image [H, W, 3] RGB at its own size.

    Args:
        network: in evaluation mode, with at most 255 classes; its device is used.
        pixels: writable.
        window: see `image_logits`.
    """
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    label = image_logits(network, image, window=window).argmax(0)
    return label.to(torch.uint8).cpu().numpy()
