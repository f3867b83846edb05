"""Checkpoints: weights as safetensors, optimiser, position and configuration, each file with its checksum.

The random numbers of a step are a function of seed and step (`data/sampler.py`), so a resumed run needs none
stored.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from segray.models.weight_checks import check_header, check_pickles, check_tensors
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.strict_json import parse_json
from segray.pipelines.training.history import HistoryEntry, MeterSums
from segray.pipelines.training.single_file import is_single, stored_state

MODEL, TEACHER, OPTIMISER, STATE = "model.safetensors", "teacher.safetensors", "optimiser.pt", "state.json"

CHECKPOINTS_KEPT = 3
"""Checkpoints with the best mIoU that a run keeps, and its newest."""

_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("step", "total"), (int,)),
    "tau": (float,),
    **dict.fromkeys(("history", "classes"), (list,)),
    **dict.fromkeys(("config", "sha256"), (dict,)),
    "network": (str,),
    "window": (int, type(None)),
    "interim": (dict,),
}
"""Those of `CheckpointState`: a checkpoint may be anyone's."""
_MAX_STEPS = 1 << 53
_FIGURES = 5
_log = logging.getLogger(__name__)


class CheckpointState(TypedDict, total=False):
    """Contents of state.json, as far as the file has them.

    `step` of `total` are trained, and no more if the run has `stopped` early; `tau` is the threshold then;
    `network` is its name and `window` the side of its validation window in pixels; `config` has the
    configuration by dotted key, `sha256` the checksum of each other file. A checkpoint between two
    validations has the sums since the earlier one in `interim`.
    """

    step: int
    total: int
    tau: float
    stopped: bool
    history: list[HistoryEntry]
    classes: list[str]
    network: str
    window: int | None
    config: dict[str, object]
    sha256: dict[str, str]
    interim: MeterSums


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        uri: its folder.
        model: weights of the network that is trained.
        teacher: weights of the averaged network, empty where the method has none.
        state: position, history, configuration and classes.
    """

    uri: str
    model: dict[str, Tensor]
    teacher: dict[str, Tensor]
    state: CheckpointState

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that predict: the teacher's, if there is one."""
        return self.teacher or self.model


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    teacher: nn.Module | None,
    optimiser: torch.optim.Optimizer,
    state: Mapping[str, object],
) -> None:
    """Write all files into a folder, `state.json` with the checksums of the others last.

    Args:
        folder: exists, and is empty.
        network: the network that is trained.
        teacher: the averaged network, if the method has one.
        optimiser: of the network.
        state: see `CheckpointState`, without `sha256`.
    """
    save_file(_weights(network), folder / MODEL)
    if teacher is not None:
        save_file(_weights(teacher), folder / TEACHER)
    torch.save(optimiser.state_dict(), folder / OPTIMISER)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    (folder / STATE).write_text(json.dumps({**state, "sha256": sums}, allow_nan=False), encoding="utf-8")


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}


def store_checkpoint(folder: Path, uri: str) -> None:
    """Copy a folder with a checkpoint to a path or URI; its state goes last: without it, it is none.

    Raises:
        UserError: it cannot be written.
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.name == STATE):
        storage.write_atomic(storage.join(uri, path.name), path.read_bytes())


def score(uri: str) -> float:
    """Validation mIoU of a checkpoint, in [0, 1]; -1 if it is incomplete, or was not validated."""
    try:
        state = _read_state(uri)
        return -1.0 if "interim" in state else state["history"][-1]["miou"] or 0.0
    except (UserError, LookupError):
        return -1.0


def load_checkpoint(uri: str) -> Checkpoint:
    """Read all files but the optimiser, and compare each with its checksum.

    Raises:
        UserError: a file is missing, truncated or changed; the message names it.
    """
    state = _read_state(uri)
    files = {name: read_file(uri, name, state) for name in state["sha256"] if name != OPTIMISER}
    tensors = {name: _tensors(uri, name, files[name]) for name in (MODEL, TEACHER) if name in files}
    return Checkpoint(uri, tensors[MODEL], tensors.get(TEACHER, {}), state)


def _tensors(uri: str, name: str, data: bytes) -> dict[str, Tensor]:
    try:
        check_header(data)
        tensors: dict[str, Tensor] = load(data)
        return tensors
    except Exception as error:  # a header that lies raises almost anything in safetensors and torch
        path = storage.display(storage.join(uri, name))
        raise UserError(f"{path} is damaged ({str(error).partition(chr(10))[0][:100]})") from error


def check_weights(uri: str) -> CheckpointState:
    """The state of a checkpoint whose weights that predict are whole; other files are not read.

    Raises:
        UserError: the state or the weights are missing, truncated or changed.
    """
    state = _read_state(uri)
    read_file(uri, weights_file(state), state)
    return state


def weights_file(state: CheckpointState) -> str:
    """Name of the file with the weights that predict: the teacher's, if there is one."""
    return TEACHER if TEACHER in state["sha256"] else MODEL


def load_optimiser(checkpoint: Checkpoint) -> dict[str, Any]:
    """The optimiser's state dict; nothing in the file is executed.

    Raises:
        UserError: the file is missing, truncated or changed, or holds more than tensors and numbers.
    """
    data = read_file(checkpoint.uri, OPTIMISER, checkpoint.state)
    try:
        check_pickles(io.BytesIO(data))
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        check_tensors(_tensors_in(state))
        return state
    except Exception:  # noqa: BLE001  damaged bytes raise almost anything in the unpickler
        path = storage.join(checkpoint.uri, OPTIMISER)
        raise UserError(f"{storage.display(path)} is refused: allowed are tensors and numbers") from None


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(inner)


def newest_whole(uris: list[str]) -> Checkpoint | None:
    """The first checkpoint of the list that a run can resume from; damaged ones are logged and skipped."""
    for uri in uris:
        try:
            checkpoint = load_checkpoint(uri)
            read_file(uri, OPTIMISER, checkpoint.state)
            return checkpoint
        except UserError as error:
            _log.warning("%s; the checkpoint before it is used", error)
    return None


def read_state(uri: str) -> CheckpointState:
    """The state of a checkpoint whose files are all there and whole, the optimiser included.

    An interrupted copy may hold any of the files: they are copied in no fixed order.

    Raises:
        UserError: naming the file that is missing, truncated or changed.
    """
    state = _read_state(uri)
    for name in state["sha256"]:
        read_file(uri, name, state)
    return state


def _read_state(uri: str) -> CheckpointState:
    path = uri if is_single(uri) else storage.join(uri, STATE)
    try:
        state = _stored_state(uri, path)
        if MODEL not in state["sha256"]:
            raise ValueError("no checksums")
        _check_types(state)
        # Names become paths: a checkpoint may be anyone's.
        if foreign := sorted(set(state["sha256"]) - {MODEL, TEACHER, OPTIMISER}):
            raise ValueError(f"{foreign[0]!r} is not one of its files")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{storage.display(uri)} is not a checkpoint of segray: {STATE} is missing") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{storage.display(path)} is damaged ({str(error)[:100]})") from None
    return state


def _stored_state(uri: str, path: str) -> CheckpointState:
    stored = stored_state(uri, MODEL) if is_single(uri) else parse_json(storage.read_bytes(path))
    return cast("CheckpointState", stored)


def _check_types(state: Mapping[str, object]) -> None:
    if wrong := [key for key, kinds in _TYPES.items() if key in state and type(state[key]) not in kinds]:
        raise ValueError(f"{wrong[0]} has another type")
    if not all(isinstance(name, str) for name in cast("list[object]", state.get("classes", []))):
        raise ValueError("a class without a name")
    for key in ("step", "total"):
        if not 0 <= cast("int", state.get(key, 0)) <= _MAX_STEPS:
            raise ValueError(f"{key} is no number of steps")
    if not all(map(_is_entry, cast("list[object]", state.get("history", [])))):
        raise ValueError("a history without figures")
    if "interim" in state and not _is_sums(state["interim"]):
        raise ValueError("sums without figures")


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    classes = value.get("iou") or []
    numbers = [value.get(key) for key in ("miou", "accuracy", "epoch", "step")]
    return isinstance(classes, list) and all(map(_is_figure, [*numbers, *classes]))


def _is_figure(value: object) -> bool:
    # Not isfinite(), which raises for whole numbers beyond floats.
    return value is None or (isinstance(value, int | float) and abs(value) <= _MAX_STEPS)


def _is_sums(value: object) -> bool:
    sums = value if isinstance(value, dict) else {}
    counts, losses = sums.get("counts"), sums.get("losses")
    if not isinstance(counts, dict) or not isinstance(losses, list) or type(sums.get("steps")) is not int:
        return False
    figures = [*losses, sums.get("seconds"), sums.get("waited")]
    if len(figures) != _FIGURES:
        return False
    return all(f is not None and _is_figure(f) for f in (*figures, *counts.values()))


def read_file(uri: str, name: str, state: CheckpointState) -> bytes:
    """A file of a checkpoint, compared with its checksum in the state.

    Raises:
        UserError: it is missing, truncated or changed.
    """
    path = uri if is_single(uri) else storage.join(uri, name)
    if name not in state["sha256"]:
        raise UserError(f"{storage.display(path)}: {STATE} has no checksum of it")
    expected = str(state["sha256"][name])
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"{storage.display(path)} is missing; the checkpoint is incomplete") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise UserError(
            f"{storage.display(path)} is damaged: sha256 {digest[:12]}..., {STATE} says {expected[:12]}..."
        )
    return data
