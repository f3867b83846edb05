"""The table in the terminal: a row when a trial has ended, and now and then what is running."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import click

from segray.pipelines.engine.progress import clock
from segray.tuning.ledger import Run, Trial, mean

_BEAT_S = 60.0


class Table:
    """Prints to stderr.

    Args:
        keys: that are searched, a column each.
        total: trials that there will be at most.
        done: trials that earlier commands have finished.
    """

    def __init__(self, keys: Sequence[str], total: int, done: int) -> None:
        self._keys, self.total, self._done = keys, total, done
        self._began = self._beaten = time.monotonic()
        self._widths = [max(9, len(key)) for key in keys]
        self._headed = False

    def row(self, trial: Trial) -> None:
        """A trial has ended."""
        self._done += 1
        self._say(trial, trial.runs, f"{self._done}/{self.total}", trial.state)

    def finals(self, trial: Trial) -> None:
        """A contender for the best was trained again with further seeds."""
        self._say(trial, trial.finals, "final", "done" if trial.finals else "crashed")

    def held_out(self, trial: Trial) -> None:
        """A trial was trained again with seeds that the search has not seen."""
        self._say(trial, trial.held_out, "unseen", "done" if trial.held_out else "crashed")

    def beat(self, latest: Mapping[str, tuple[float, float]], running: Sequence[Trial]) -> None:
        """Once a minute, what is running."""
        if time.monotonic() - self._beaten < _BEAT_S:
            return
        self._beaten = time.monotonic()
        shown = ", ".join(_progress(one, latest) for one in running) or "nothing"
        click.echo(f"{clock(self._beaten - self._began):>7}  running {shown}", err=True)

    def _say(self, trial: Trial, runs: Sequence[Run], count: str, state: str) -> None:
        if not self._headed:
            head = self._line("time", "trials", "trial", "outcome", "mIoU", "epochs", self._keys)
            click.echo(head, err=True)
            self._headed = True
        miou = mean([run.miou for run in runs])
        epochs = mean([run.epoch for run in runs])
        line = self._line(
            clock(time.monotonic() - self._began),
            count,
            trial.file,
            state,
            "-" if miou is None else f"{miou:.1%}",
            "-" if epochs is None else f"{epochs:g}",
            [trial.values.get(key, "") for key in self._keys],
        )
        click.echo(f"{line}  {trial.reason}".rstrip() if state != "stopped" else line, err=True)
        self._beaten = time.monotonic()

    def _line(
        self, spent: str, count: str, name: str, state: str, miou: str, epochs: str, cells: Sequence[str]
    ) -> str:
        values = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, self._widths, strict=True))
        return f"{spent:>7}  {count:>7}  {name:<12}  {state:<8}  {miou:>6}  {epochs:>6}  {values}"


def _progress(trial: Trial, latest: Mapping[str, tuple[float, float]]) -> str:
    if trial.file not in latest:
        return f"{trial.file} (starting)"
    epoch, miou = latest[trial.file]
    return f"{trial.file} (epoch {epoch:g}, {miou:.1%})"
