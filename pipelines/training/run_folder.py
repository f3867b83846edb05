"""The folder of a training run: whose it is, what is finished, and what is left for others to use.

config.yaml, splits/, checkpoints/ (Ray's), then best/ and last/ (whole checkpoints), history.json, and a
folder of each tracker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

import yaml

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.loading import dump, identity
from segray.pipelines.config.previous import current_tree
from segray.pipelines.engine.provenance import other_configuration
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.training.checkpoints import STATE, read_state
from segray.pipelines.training.data.splits import write_split
from segray.pipelines.training.data.training_data import TrainingData
from segray.pipelines.training.session import newest_first

CHECKPOINTS, BEST, LAST, HISTORY, CONFIG = "checkpoints", "best", "last", "history.json", "config.yaml"


def check_folder(
    out: str, what: str, new: Mapping[str, Any], read: Callable[[Any], Mapping[str, Any]]
) -> None:
    """Refuse a folder of something else, or of a run or a search with another configuration.

    Args:
        out: the folder.
        what: what should be there, for the message.
        new: the configuration's values by key.
        read: the same of what config.yaml holds; a ValueError where it is none.

    Raises:
        UserError: with the difference.
    """
    try:
        names = storage.list_names(out)
    except OSError as error:
        raise UserError(f"out={storage.display(out)} cannot be listed: {error}") from error
    if CONFIG not in names:
        if foreign := sorted(name for name in names if not name.startswith(".")):
            raise UserError(
                f"out={storage.display(out)} holds something else ({', '.join(foreign[:3])}); "
                f"allowed: a new or empty folder, or one of this {what}"
            )
        return
    path = storage.join(out, CONFIG)
    try:
        old = read(yaml.safe_load(storage.read_bytes(path)))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{storage.display(path)} is not the configuration of a {what}") from error
    changed = [
        f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)
    ]
    if changed:
        raise UserError(other_configuration(out, changed, "give another out=DIR"))


class RunFolder:
    """`out` of a training run."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.out = config, config.out

    def check(self) -> None:
        """Refuse a folder of something else, or of a run with another configuration.

        Raises:
            UserError: with the difference.
        """
        check_folder(
            self.out,
            "training run",
            identity(self.config),
            lambda tree: identity(TrainConfig.model_validate(current_tree(tree))),
        )

    def begin(self, data: TrainingData) -> None:
        """Write the configuration and the splits that were drawn."""
        for name in ("labelled", "unlabelled", "validation"):
            write_split(storage.join(self.out, "splits", f"{name}.txt"), getattr(data, name))
        storage.write_atomic(storage.join(self.out, CONFIG), dump(self.config).encode())

    def states(self) -> dict[str, dict[str, Any]]:
        """The state of each whole checkpoint by its URI, newest first."""
        found = {}
        for uri in newest_first(storage.join(self.out, CHECKPOINTS)):
            with suppress(UserError):
                found[uri] = read_state(uri)
        return found

    def finished(self) -> bool:
        """Whether the last step is behind it."""
        return any(state["step"] >= state["total"] for state in self.states().values())

    def export(self) -> None:
        """Copy the last and the best checkpoint to names of their own, and the history beside them."""
        states = self.states()
        if not states:
            return
        in_order = sorted(states, key=lambda uri: states[uri]["step"])
        last = in_order[-1]
        best = max(in_order, key=lambda uri: states[uri]["history"][-1]["miou"] or 0.0)
        self._copy(last, LAST)
        self._copy(best, BEST)
        text = json.dumps(states[last]["history"], indent=1)
        storage.write_atomic(storage.join(self.out, HISTORY), f"{text}\n".encode())

    def _copy(self, uri: str, name: str) -> None:
        # The file with the sums goes last: a copy that is cut is no checkpoint.
        for file in sorted(storage.list_names(uri), key=lambda file: (file == STATE, file)):
            data = storage.read_bytes(storage.join(uri, file))
            storage.write_atomic(storage.join(self.out, name, file), data)

    @cached_property
    def _history(self) -> list[dict[str, Any]]:
        return json.loads(storage.read_bytes(storage.join(self.out, HISTORY)))

    def summary(self) -> list[str]:
        """What the run came to, in lines."""
        last = self._history[-1]
        best = max(self._history, key=lambda entry: entry["miou"] or 0.0)
        rows = [("best epoch", best["epoch"], best["miou"]), ("last epoch", last["epoch"], last["miou"])]
        lines = ["", f"{self.config.method}, validation mIoU"]
        if last.get("zero_shot_miou") is not None:
            lines.append(f"  {'zero-shot labels':<18}        {last['zero_shot_miou']:>6.1%}")
        lines += [f"  {name:<18} {epoch:>6g} {miou or 0.0:>6.1%}" for name, epoch, miou in rows]
        lines.append(f"checkpoint {storage.display(storage.join(self.out, BEST))}")
        return lines
