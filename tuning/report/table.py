"""The table in the terminal: a row per ended trial, and a heartbeat of what is running."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from segray.pipelines.engine.progress import clock
from segray.pipelines.printing import echo
from segray.tuning.records import Run, Trial, mean

_FIRST_HEARTBEAT_S, _HEARTBEAT_S = 10.0, 60.0

Progress = Mapping[str, tuple[float, float]]
"""(epoch, mIoU) of running trials by their folder."""


class Table:
    """Prints to stderr.

    Args:
        keys: the searched keys, a column each.
        done: number of trials that earlier commands have finished.
        total: largest number of trials of the search.
    """

    def __init__(self, keys: Sequence[str], done: int, total: int) -> None:
        self._keys, self._done, self._total = keys, done, total
        self._began = self._printed = time.monotonic()
        self._has_head = False

    def row(self, trial: Trial) -> None:
        """A trial has ended."""
        self._done += 1
        self._print(trial, trial.runs, f"{self._done}/{self._total}", trial.state)

    def finals(self, trial: Trial) -> None:
        """A finalist was trained again with further seeds."""
        self._print(trial, trial.finals, "final", "done" if trial.finals else "crashed")

    def held_out(self, trial: Trial) -> None:
        """A trial was trained again with unseen seeds."""
        self._print(trial, trial.held_out, "unseen", "done" if trial.held_out else "crashed")

    def heartbeat(self, running: Sequence[Trial], progress: Callable[[], Progress]) -> None:
        """Print what is running, at most once per minute; the first time after ten seconds.

        Args:
            running: the running trials.
            progress: gets their figures.
        """
        now = time.monotonic()
        if now - self._printed < (_FIRST_HEARTBEAT_S if self._printed == self._began else _HEARTBEAT_S):
            return
        self._printed, known = now, progress()
        trials = ", ".join(_progress(trial, known) for trial in running) or "nothing"
        echo(f"{clock(now - self._began):>7}  running {trials}", err=True)

    def _print(self, trial: Trial, runs: Sequence[Run], count: str, state: str) -> None:
        if not self._has_head:
            self._line("time", "trials", "trial", "outcome", "mIoU", "epochs", self._keys)
            self._has_head = True
        self._printed = time.monotonic()
        miou, epochs = mean(run.miou for run in runs), mean(run.epoch for run in runs)
        cells = [trial.values.get(key, "") for key in self._keys]
        self._line(
            clock(self._printed - self._began),
            count,
            trial.file,
            state,
            "-" if miou is None else f"{miou:.1%}",
            "-" if epochs is None else f"{epochs:g}",
            [*cells, trial.reason if state != "stopped" else ""],
        )

    def _line(
        self, seconds: str, count: str, name: str, state: str, miou: str, epochs: str, cells: Sequence[str]
    ) -> None:
        widths = [max(9, len(key)) for key in self._keys]
        values = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, [*widths, 0], strict=False))
        line = f"{seconds:>7}  {count:>7}  {name:<12}  {state:<8}  {miou:>6}  {epochs:>6}  {values}"
        echo(line.rstrip(), err=True)


def _progress(trial: Trial, progress: Progress) -> str:
    if trial.file not in progress:
        return f"{trial.file} (starting)"
    epoch, miou = progress[trial.file]
    return f"{trial.file} (epoch {epoch:g}, {miou:.1%})"
