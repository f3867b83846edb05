"""A checkpoint: weights as safetensors, the optimiser, the position and the configuration, with checksums.

The random numbers of a step are a function of seed and step (`order.py`): the position is all that a resumed
run needs of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage

MODEL, TEACHER, OPTIMISER, STATE = "model.safetensors", "teacher.safetensors", "optimiser.pt", "state.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What was read back.

    Attributes:
        model: weights of the network that learns.
        teacher: weights of the averaged network, empty where the method has none.
        state: position, history, configuration and classes.
    """

    uri: str
    model: dict[str, Tensor]
    teacher: dict[str, Tensor]
    state: dict[str, Any]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that predict: the teacher's where there is one."""
        return self.teacher or self.model


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    teacher: nn.Module | None,
    optimiser: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write all files into a folder; `state.json` with the others' checksums is the last."""
    save_file(_plain(network), folder / MODEL)
    if teacher is not None:
        save_file(_plain(teacher), folder / TEACHER)
    torch.save(optimiser.state_dict(), folder / OPTIMISER)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    (folder / STATE).write_text(json.dumps({**state, "sha256": sums}, allow_nan=False), encoding="utf-8")


def _plain(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}


def load_checkpoint(uri: str) -> Checkpoint:
    """Read what predicts, which is all but the optimiser; each file is checked against its sum.

    Raises:
        UserError: a file is missing, cut or changed; the message names it.
    """
    state = _state(uri)
    files = {
        name: _checked(uri, name, digest) for name, digest in state["sha256"].items() if name != OPTIMISER
    }
    teacher = load(files[TEACHER]) if TEACHER in files else {}
    return Checkpoint(uri, load(files[MODEL]), teacher, state)


def load_optimiser(checkpoint: Checkpoint) -> dict[str, Any]:
    """The optimiser's state; nothing in the file is executed.

    Raises:
        UserError: the file is missing, cut or changed, or holds more than tensors and numbers.
    """
    data = _checked(checkpoint.uri, OPTIMISER, checkpoint.state["sha256"][OPTIMISER])
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError):
        path = storage.join(checkpoint.uri, OPTIMISER)
        raise UserError(f"{storage.display(path)} is refused: allowed are tensors and numbers") from None


def newest_whole(uris: list[str]) -> Checkpoint | None:
    """The first checkpoint of the list that one can go on from; a damaged one is told and passed over."""
    for uri in uris:
        try:
            checkpoint = load_checkpoint(uri)
            _checked(uri, OPTIMISER, checkpoint.state["sha256"][OPTIMISER])
            return checkpoint
        except UserError as error:
            _log.warning("%s; the checkpoint before it is used", error)
    return None


def read_state(uri: str) -> dict[str, Any]:
    """The state of a checkpoint whose files are all there and whole, those for going on included.

    A copy that was cut may hold any of its files: they are copied in no order that one could rely on.

    Raises:
        UserError: naming what is missing, cut or changed.
    """
    state = _state(uri)
    for name, digest in state["sha256"].items():
        _checked(uri, name, digest)
    return state


def _state(uri: str) -> dict[str, Any]:
    path = storage.join(uri, STATE)
    try:
        state = json.loads(storage.read_bytes(path))
        if not isinstance(state["sha256"], dict) or MODEL not in state["sha256"]:
            raise ValueError("no checksums")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{storage.display(uri)} is no checkpoint of segray: {STATE} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{storage.display(path)} is damaged ({str(error)[:100]})") from None
    return state


def _checked(uri: str, name: str, digest: str) -> bytes:
    path = storage.join(uri, name)
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"{storage.display(path)} is missing; the checkpoint is not whole") from None
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise UserError(
            f"{storage.display(path)} is damaged: sha256 {found[:12]}..., {STATE} says {str(digest)[:12]}..."
        )
    return data
