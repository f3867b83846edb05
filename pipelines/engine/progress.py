"""What a run prints: a status line while it works, and a summary at its end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

import click

from segray.pipelines.engine.ledger import Ledger, RemoteLedger, Tally
from segray.pipelines.engine.provenance import STAGES
from segray.pipelines.engine.run_record import RunRecord, SomeImages
from segray.pipelines.printing import echo, shown
from segray.pipelines.understood import name_some

_TTY_S, _LOG_S = 1.0, 10.0
_WAITING = 0.5
"""Workers that are busy for less than this share of their time wait for other stages."""


@contextmanager
def resumable(safe: str) -> Iterator[None]:
    """On Ctrl-C, print that the command was stopped, what is safe, and that the same command resumes.

    Args:
        safe: what is safe, as in "stopped; {safe} safe; ...".
    """
    try:
        yield
    except KeyboardInterrupt:
        echo(f"\nstopped; {safe} safe; run the same command to resume", err=True)
        raise


class StatusLine:
    """One line on stderr: replaced in place on a terminal, otherwise a new line now and then.

    By hand: a bar of tqdm or rich shows one count, and prints control characters or nothing to a log file.
    """

    def __init__(self) -> None:
        self._tty, self._last = sys.stderr.isatty(), ""

    @property
    def interval(self) -> float:
        """Seconds between two lines."""
        return _TTY_S if self._tty else _LOG_S

    def show(self, text: str) -> None:
        """Print the line, unless it is the same as before."""
        if text != self._last:
            line = shown(text)
            click.echo(f"\r\033[K{line}" if self._tty else line, nl=not self._tty, err=True)
        self._last = text

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self._tty and self._last:
            click.echo("\r\033[K", nl=False, err=True)


class Progress:
    """Prints images done, images/s and time left to stderr: in place on a terminal, else now and then.

    Args:
        ledger: what to ask.
        total: images of this run.
        before: images that earlier runs have done.
    """

    def __init__(self, ledger: Ledger | RemoteLedger, total: int, before: int) -> None:
        self._ledger, self._total, self._before = ledger, total, before
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="segray-progress", daemon=True)
        self._began, self._line = time.monotonic(), StatusLine()

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._line.interval):
            try:
                tally = self._ledger.tally()
            except Exception:  # noqa: BLE001  progress must never end a run; the run itself reports what is wrong
                return
            self._line.show(progress_line(tally, self._total, self._before, time.monotonic() - self._began))
        self._line.clear()


def progress_line(tally: Tally, total: int, before: int, seconds: float) -> str:
    """One line: `annotate  120/200  3.2 images/s  0:25 left  118 ok  2 bad`.

    Images count for the rate once the first model is through with them, as parts are written in bursts.
    """
    written = sum(tally.rows.values())
    segmented = min(total, max(written, *(tally.images[stage] for stage in STAGES)))
    bad = tally.rows["error"] + tally.rows["skipped"]
    if not segmented:
        wait = f"waiting for the models and the first images ({clock(seconds)})"
        return f"annotate  {before}/{before + total}  {wait}"
    rate = segmented / seconds if seconds else 0.0
    left = clock((total - segmented) / rate) if rate else "?"
    text = f"annotate  {before + segmented}/{before + total}  {rate:.1f} images/s  {left} left"
    text += f"  written: {tally.rows['ok']} ok  {bad} bad"
    return text + (f"  restarts {tally.restarts}" if tally.restarts else "")


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def bottleneck_lines(utilisation: Mapping[str, float]) -> list[str]:
    """The pool that the others waited for; no line if no pool had work."""
    if not utilisation:
        return []
    name, share = max(utilisation.items(), key=lambda item: item[1])
    busy = f"busy {100 * share:.0f} % of its time"
    if share < _WAITING:
        return [f"  bottleneck: not the models, whose workers waited; {name} was {busy}"]
    return [f"  bottleneck: {name}, {busy}"]


def _quiet_lines(what: str, images: SomeImages | None, hint: str) -> list[str]:
    """Ok images with nothing in their labels, and what to look at; no line without any."""
    if not images or not images["count"]:
        return []
    more = f" and {images['count'] - len(images['first'])} more" * (images["count"] > len(images["first"]))
    shown = f"in {images['count']} of the ok images: {', '.join(images['first'])}{more}"
    return [f"{what:<10}  {shown}", f"            ({hint})"]


def summary_lines(run: RunRecord, out: str) -> list[str]:
    """The summary of run.json's content, in lines for a terminal."""
    rows = run["rows"]
    bad = rows["error"] + rows["skipped"]
    segmented = "no_segments" in run or run["n_segments"] > 0
    lines = [
        "",
        f"images      {rows['ok'] + bad}: {rows['ok']} ok, {rows['error']} error, {rows['skipped']} skipped",
        f"labelled    {100 * run['labelled_fraction']:.1f} % of the pixels have a confidence",
        *([f"segments    {run['n_segments']}"] if segmented else []),
    ]
    hint = "blank images, or values in a small part of the range: see image.range"
    lines += _quiet_lines("no segment", run.get("no_segments"), hint)
    hint = "no segment is similar enough to a class: see classes and label.threshold"
    lines += _quiet_lines("no class", run.get("no_class"), hint)
    named = [c for c in run["classes"] if c["images"]]
    width = max((len(c["name"]) for c in named), default=5)
    lines += ["", f"{'class':<{width}}  {'pixels':>8}  {'images':>8}"]
    lines += [f"{c['name']:<{width}}  {100 * c['share']:>6.2f} %  {c['images']:>8}" for c in named]
    absent = [c["name"] for c in run["classes"] if not c["images"]]
    lines += [f"no pixel of: {name_some(absent)}"] if absent and rows["ok"] else []
    this = run["this_run"]
    if this["images"]:
        lines += ["", f"this run    {this['images']} images in {clock(this['seconds'])}"]
        shares = this["utilisation"]
        for name, seconds in this["stage_seconds"].items():
            share = f"  {100 * shares[name]:.0f} % of its workers' time" if name in shares else ""
            lines.append(f"  {name:<8}  {seconds:>8.1f} s busy{share}")
        lines += bottleneck_lines(shares)
        if (busy := this.get("gpu_busy")) is not None:
            lines.append(f"  gpu: computed {100 * busy:.0f} % of the time")
        if this["restarts"]:
            lines += [f"  workers died {this['restarts']} times; their images were processed again"]
    return [*lines, "", f"label set   {out}"]
