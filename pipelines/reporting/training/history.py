"""Read the history, the classes and the configuration of a training run from its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from segray.models.label_space import MAX_CLASSES, is_wide
from segray.models.messages import first_line
from segray.models.plain_yaml import read_plain_yaml
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.previous import current_tree
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.checkpoints import STATE
from segray.pipelines.training.history import best_index
from segray.pipelines.training.run_folder import BEST, CHECKPOINTS, CONFIG, HISTORY
from segray.pipelines.training.session import newest_first

_Number = Annotated[float, Field(ge=-1e12, le=1e12)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0, le=2**48)]


class Entry(BaseModel):
    """One validation, as `pipelines.training.loop` writes it; losses and shares are since the previous one.

    Attributes:
        loss: mean over the steps; so are its two terms.
        from_model: share of unlabelled pixels whose label is the network's prediction.
        agreement: share of unlabelled pixels where network and zero-shot label name the same class.
        waiting: share of the time spent waiting for data.
        iou: of each of C classes, None where it is not defined.
        confusion: C rows of C pixel counts, rows truth, columns predictions; with more than 254 classes
            C rows of two, the right and the wrong pixels.
        ignored: share of the validation masks' pixels that count for nothing.
        labelled_pixels: of each of C classes, in the labelled images' masks.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    step: _Count
    epoch: Annotated[float, Field(ge=0, le=1e9)]
    loss: _Number
    supervised: _Number
    unsupervised: _Number
    miou: _Share | None
    accuracy: _Share | None
    iou: Annotated[list[_Share | None], Field(min_length=1, max_length=MAX_CLASSES + 1)]
    confusion: list[list[_Count]]
    ignored: _Share | None = None
    labelled_pixels: list[_Count] | None = None
    from_model: _Share | None = None
    agreement: _Share | None = None
    seconds: Annotated[float, Field(ge=0, le=1e12)] | None = None
    waiting: _Share | None = None
    zero_shot_miou: _Share | None = None
    zero_shot_accuracy: _Share | None = None
    enhanced_miou: _Share | None = None
    enhanced_accuracy: _Share | None = None

    @model_validator(mode="after")
    def _square(self) -> Entry:
        columns = 2 if is_wide(len(self.iou)) else len(self.iou)
        if self.labelled_pixels is not None and len(self.labelled_pixels) != len(self.iou):
            raise ValueError(f"labelled_pixels has {len(self.labelled_pixels)} classes, iou {len(self.iou)}")
        if len(self.confusion) != len(self.iou) or any(len(row) != columns for row in self.confusion):
            raise ValueError(f"confusion is not {len(self.iou)} x {columns}, as iou has it")
        return self

    @property
    def counts(self) -> NDArray[np.int64]:
        """The confusion matrix, int64 [C, C]; of many classes [C, 2]."""
        return np.array(self.confusion, np.int64)


_HISTORY = TypeAdapter(Annotated[list[Entry], Field(min_length=1)])


@dataclass(frozen=True)
class TrainingRun:
    """A training run.

    Attributes:
        out: the folder.
        history: at least one entry, in the order of training.
        classes: C names; `class 3` and the like if no checkpoint is left.
        config: None if config.yaml is missing or invalid.
        config_problem: why it is None.
        window: side of the windows in which the network was validated, in pixels; 0: whole images, None:
            large images in windows, or not known.
    """

    out: str
    history: list[Entry]
    classes: tuple[str, ...]
    config: TrainConfig | None
    config_problem: str
    window: int | None

    @property
    def best(self) -> Entry:
        """The entry with the highest mIoU, the first of equals; the last entry where none has one."""
        return self.history[best_index([entry.miou for entry in self.history])]

    @property
    def last(self) -> Entry:
        """The newest entry."""
        return self.history[-1]


def is_training_run(out: str) -> bool:
    """Whether a folder is the output of `segray train`, finished or not.

    Raises:
        UserError: it cannot be listed.
    """
    try:
        names = storage.list_names(out)
    except OSError as error:
        raise UserError(f"out={storage.display(out)} cannot be listed: {error}") from error
    return bool({HISTORY, CHECKPOINTS} & set(names))


def read_run(out: str) -> TrainingRun:
    """Read history, classes and configuration of a training run.

    If a checkpoint is newer than history.json, its history is used.

    Raises:
        UserError: the history is damaged, or there is none because nothing was validated yet.
    """
    states = _states(out)
    path = storage.join(out, HISTORY)
    histories = [_history(read_json(path), path)] if storage.exists(path) else []
    histories += [_history(s["history"], storage.join(uri, STATE)) for uri, s in states if "history" in s]
    if not histories:
        where = storage.display(out)
        raise UserError(f"out={where}: neither {HISTORY} nor a checkpoint; nothing was validated yet")
    history = max(histories, key=lambda entries: entries[-1].step)
    config, problem = _config(out)
    count = len(history[-1].iou)
    of_states = [state for _, state in states]
    return TrainingRun(out, history, _classes(of_states, count), config, problem, _window(of_states))


def checkpoints(out: str) -> list[str]:
    """Locations of a run's network: the best one, then the checkpoints of an unfinished run, newest first."""
    return [storage.join(out, BEST), *newest_first(storage.join(out, CHECKPOINTS))]


def read_json(path: str) -> Any:
    """A JSON file.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(storage.read_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{storage.display(path)} cannot be read ({_first_line(error)})") from None


def _states(out: str) -> list[tuple[str, dict[str, Any]]]:
    """The state of the newest readable checkpoint, and of the best, where they are."""
    states: list[tuple[str, dict[str, Any]]] = []
    best, *newest = checkpoints(out)
    for uris in (newest, [best]):
        for uri in uris:
            try:
                state = read_json(storage.join(uri, STATE))
            except UserError:
                continue
            if isinstance(state, dict):
                states.append((uri, state))
                break
    return states


def _history(value: Any, path: str) -> list[Entry]:
    try:
        entries = _HISTORY.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"][:3]))
        where = f" at entry {place}" if place else ""
        raise UserError(f"{storage.display(path)}: the history is damaged{where}: {problem['msg']}") from None
    if len({len(entry.iou) for entry in entries}) > 1:
        raise UserError(f"{storage.display(path)}: the history is damaged: the number of classes changes")
    return entries


def _window(states: list[dict[str, Any]]) -> int | None:
    sides = [state.get("window") for state in states]
    return next((side for side in sides if type(side) is int and side >= 0), None)


def _classes(states: list[dict[str, Any]], count: int) -> tuple[str, ...]:
    for state in states:
        names = state.get("classes")
        if isinstance(names, list) and len(names) == count:
            return tuple(map(str, names))
    return tuple(f"class {i}" for i in range(count))


def _config(out: str) -> tuple[TrainConfig | None, str]:
    try:
        values = read_plain_yaml(storage.read_bytes(storage.join(out, CONFIG)))
        config = TrainConfig.model_validate(current_tree(values))
        # The folder itself, whatever a received file calls it.
        return config.model_copy(update={"out": out}), ""
    except FileNotFoundError:
        return None, f"{CONFIG} is missing"
    except (OSError, ValueError):
        return None, f"{CONFIG} is not the configuration of a training run"


def _first_line(error: BaseException) -> str:
    return first_line(error)[:150]
