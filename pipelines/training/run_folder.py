"""The folder of a training run.

config.yaml, data.json, splits/, checkpoints/ (written by Ray Train), then best/ and last/ (whole
checkpoints), history.json, and a folder for each tracker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from segray.models.plain_yaml import MAX_BYTES, read_plain_yaml
from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import dump_redacted, identity
from segray.pipelines.config.previous import current_tree
from segray.pipelines.corrections.correction import Correction
from segray.pipelines.corrections.log import read_corrections, write_corrections
from segray.pipelines.engine.provenance import other_configuration
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.checkpoints import STATE, CheckpointState, read_state
from segray.pipelines.training.data.samples import TrainingData
from segray.pipelines.training.data.splits import write_split
from segray.pipelines.training.data_record import (
    data_differences,
    data_record,
    store_record,
    stored_record,
    without_places,
)
from segray.pipelines.training.history import HistoryEntry, best_index
from segray.pipelines.training.session import newest_first
from segray.pipelines.understood import name_some

CHECKPOINTS, BEST, LAST, HISTORY, CONFIG = "checkpoints", "best", "last", "history.json", "config.yaml"
CORRECTIONS = "corrections.parquet"
"""The corrections of the label set when the run began: later ones must not change it."""
RUN = "training run"
"""What a folder of this kind is called in messages."""


def check_folder(
    out: str, what: str, new: Mapping[str, object], read: Callable[[object], Mapping[str, object]]
) -> None:
    """Refuse a folder of something else, or of a run or a search with another configuration.

    Args:
        out: the folder.
        what: what should be in it, for the message.
        new: values of the configuration by key.
        read: turns the contents of config.yaml into the same; raises a ValueError if it cannot.

    Raises:
        UserError: with the difference.
    """
    try:
        names = storage.list_names(out)
    except OSError as error:
        raise UserError(f"out={storage.display(out)} cannot be listed: {error}") from error
    if CONFIG in names:
        _check_config(out, what, new, read)
    elif foreign := sorted(name for name in names if not name.startswith(".")):
        raise UserError(
            f"out={storage.display(out)} holds something else ({', '.join(foreign[:3])}); "
            f"allowed: a new or empty folder, or that of this {what}"
        )


def _check_config(
    out: str, what: str, new: Mapping[str, object], read: Callable[[object], Mapping[str, object]]
) -> None:
    path = storage.join(out, CONFIG)
    try:
        old = read(read_plain_yaml(storage.read_bytes(path, MAX_BYTES)))
    except OSError as error:
        raise UserError(f"cannot read {storage.display(path)}: {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{storage.display(path)} is not the configuration of a {what}") from error
    changed = [
        f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)
    ]
    if changed:
        raise UserError(other_configuration(out, changed, _advice(out, what, old, new)))


def _advice(out: str, what: str, old: Mapping[str, object], new: Mapping[str, object]) -> str:
    advice = "give another out=DIR"
    if what != RUN or old.get("train.epochs") == new.get("train.epochs"):
        return advice
    # The learning rate of each step follows from the number of steps, so that a schedule cannot be prolonged.
    return f"{advice}; with network.checkpoint={storage.display(out)} it starts from this run's weights"


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run; as text, the summary that the command prints.

    Attributes:
        out: folder or URI of the run.
        checkpoint: folder or URI of its best checkpoint.
        method: that it was trained with.
        best_miou: validation mIoU of the best checkpoint, in [0, 1]; None where it is not defined, as with
            masks of one class.
        best_epoch: when it was saved.
        last_miou: validation mIoU at the end; None where it is not defined.
        last_epoch: the epoch of the last validation.
        zero_shot_miou: mIoU of the zero-shot labels on the validation images; None without any.
        remarks: what the mIoU leaves out, one line each.
    """

    out: str
    checkpoint: str
    method: str
    best_miou: float | None
    best_epoch: float
    last_miou: float | None
    last_epoch: float
    zero_shot_miou: float | None
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = ["", f"{self.method}, validation mIoU"]
        if self.zero_shot_miou is not None:
            lines.append(f"  {'zero-shot labels':<18}        {self.zero_shot_miou:>6.1%}")
        for name, epoch, miou in (
            ("best epoch", self.best_epoch, self.best_miou),
            ("last epoch", self.last_epoch, self.last_miou),
        ):
            lines.append(f"  {name:<18} {epoch:>6g} {'-' if miou is None else f'{miou:.1%}':>6}")
        lines += [f"  {remark}" for remark in self.remarks]
        return "\n".join([*lines, f"checkpoint {storage.display(self.checkpoint)}"])


def _remarks(last: HistoryEntry, classes: Sequence[str]) -> tuple[str, ...]:
    """Which classes the validation masks lack, and how many of their pixels are ignored."""
    truth = [sum(row) for row in last["confusion"]]
    if not any(truth) and not last.get("ignored"):
        return ("no result: the run had no validation images",)
    absent = [name for name, pixels in zip(classes, truth, strict=True) if not pixels]
    remarks = [f"not in the validation masks: {name_some(absent)}"] if absent else []
    if len(absent) + 1 >= len(classes):
        remarks.append("no result: mIoU needs validation masks of two classes or more")
    if ignored := last.get("ignored"):
        remarks.append(f"ignored {ignored:.1%} of the validation masks' pixels")
    return tuple(remarks)


class RunFolder:
    """`out` of a training run.

    Args:
        config: the run.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.out = config, config.out

    def check(self, *, may_move: bool = False) -> None:
        """Refuse a folder of something else, or of a run with another configuration.

        Args:
            may_move: the data may be in another place than before; `check_data` compares it.

        Raises:
            UserError: with the difference.
        """
        # A run of an older segray has no record of its data.
        values = without_places if may_move and stored_record(self.out) else dict

        def read(tree: object) -> Mapping[str, object]:
            return values(identity(TrainConfig.model_validate(current_tree(tree))))

        check_folder(self.out, RUN, values(identity(self.config)), read)

    def check_data(self, data: TrainingData) -> None:
        """Refuse other data than the run began with, wherever it is now.

        A finished run takes its data as it is, unless that was moved: nothing is trained any more.

        Raises:
            UserError: with the difference.
        """
        old = stored_record(self.out)
        if old is None or (self.finished() and not self._is_moved()):
            return
        if changed := data_differences(old, data_record(data)):
            raise UserError(other_configuration(self.out, changed, "give another out=DIR"))

    def corrections(self) -> list[Correction] | None:
        """Those that the run began with; None if it has not begun, or did so before segray knew any.

        Raises:
            UserError: the file is damaged.
        """
        return read_corrections(storage.join(self.out, CORRECTIONS)) if stored_record(self.out) else None

    def _is_moved(self) -> bool:
        stored = read_plain_yaml(storage.read_bytes(storage.join(self.out, CONFIG)))
        return identity(TrainConfig.model_validate(current_tree(stored))) != identity(self.config)

    def begin(self, data: TrainingData) -> None:
        """Write the configuration, the splits and the record of the data."""
        if stored_record(self.out) is None:
            store_record(self.out, data_record(data))
            write_corrections(storage.join(self.out, CORRECTIONS), data.corrections)
        for name in ("labelled", "unlabelled", "validation"):
            # What corrections label has no mask that a split file could name.
            samples = [sample for sample in getattr(data, name) if sample.by_hand is None]
            write_split(storage.join(self.out, "splits", f"{name}.txt"), samples)
        storage.write_atomic(storage.join(self.out, CONFIG), dump_redacted(self.config).encode())

    def states(self) -> dict[str, CheckpointState]:
        """The state of each whole checkpoint by its URI, newest first."""
        states = {}
        for uri in newest_first(storage.join(self.out, CHECKPOINTS)):
            with suppress(UserError):
                states[uri] = read_state(uri)
        return states

    def finished(self) -> bool:
        """Whether a checkpoint of the last step exists, or of the step at which the run stopped early."""
        states = self.states().values()
        return any(state["step"] >= state["total"] or state.get("stopped") for state in states)

    def export(self) -> None:
        """Copy the last and the best checkpoint to last/ and best/, and write history.json."""
        states = {uri: state for uri, state in self.states().items() if "interim" not in state}
        if not states:
            return
        by_step = sorted(states, key=lambda uri: states[uri]["step"])
        last = by_step[-1]
        best = by_step[best_index([states[uri]["history"][-1]["miou"] for uri in by_step])]
        self._copy(last, LAST)
        self._copy(best, BEST)
        text = json.dumps(states[last]["history"], indent=1)
        storage.write_atomic(storage.join(self.out, HISTORY), f"{text}\n".encode())

    def _copy(self, uri: str, name: str) -> None:
        # The file with the checksums goes last: an interrupted copy is not a checkpoint.
        for file in sorted(storage.list_names(uri), key=lambda file: (file == STATE, file)):
            data = storage.read_bytes(storage.join(uri, file))
            storage.write_atomic(storage.join(self.out, name, file), data)

    def _class_names(self) -> list[str]:
        return list(read_state(storage.join(self.out, LAST))["classes"])

    @cached_property
    def _history(self) -> list[HistoryEntry]:
        return json.loads(storage.read_bytes(storage.join(self.out, HISTORY)))

    def result(self) -> TrainResult:
        """The result of an exported run."""
        last = self._history[-1]
        best = self._history[best_index([entry["miou"] for entry in self._history])]
        return TrainResult(
            out=self.out,
            checkpoint=storage.join(self.out, BEST),
            method=self.config.method,
            best_miou=best["miou"],
            best_epoch=best["epoch"],
            last_miou=last["miou"],
            last_epoch=last["epoch"],
            zero_shot_miou=last.get("zero_shot_miou"),
            remarks=_remarks(last, self._class_names()),
        )
