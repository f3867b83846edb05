"""The files of a search: results.csv, results.json, a configuration per split and the page; its summary."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from segray.pipelines.config.commands.tune import dimensions_of
from segray.pipelines.config.loading import dump_redacted
from segray.pipelines.io import storage
from segray.pipelines.printing import csv_text
from segray.tuning.folder import SearchFolder, configured
from segray.tuning.records import State, Trial, mean
from segray.tuning.report.page import build
from segray.tuning.report.splits import SplitResult, split_results

RESULTS, TABLE, PAGE = "results.json", "results.csv", "report.html"
_STATES: tuple[State, ...] = ("done", "stopped", "diverged", "crashed", "running")
_FIGURES = ("split", "labelled", "miou", "default_miou", "held_out_miou", "held_out_default_miou")


def write(folder: SearchFolder) -> None:
    """Write or update all files beside the trials."""
    if not folder.trials():
        return
    splits = split_results(folder)
    files = {RESULTS: json.dumps(results(folder, splits), indent=1) + "\n", TABLE: table(folder, splits)}
    for result in splits:
        if result.best is not None:
            stem = result.config.removeprefix("best-").removesuffix(".yaml")
            out = storage.join(folder.out, "best", stem)
            config = configured(folder.config, result.best).model_copy(update={"out": out})
            files[result.config] = dump_redacted(config)
    for name, text in {**files, PAGE: build(folder, splits)}.items():
        storage.write_atomic(storage.join(folder.out, name), text.encode())


def results(folder: SearchFolder, splits: Sequence[SplitResult]) -> dict[str, object]:
    """All results for programs: the best trial and the baseline of each split, and every trial."""
    return {
        "space": {key: text for key, text in folder.config.space.items() if text is not None},
        "splits": [_split_record(result) for result in splits],
        "trials": [
            {**asdict(trial), "score": trial.score, "overall": trial.overall}
            for result in splits
            for trial in result.trials
        ],
    }


def _split_record(result: SplitResult) -> dict[str, object]:
    figures = {name: getattr(result, name) for name in _FIGURES}
    best = result.best
    if best is None:
        return {**figures, "best": None, "values": None, "config": None}
    return {**figures, "best": best.file, "values": best.values, "config": result.config}


def table(folder: SearchFolder, splits: Sequence[SplitResult]) -> str:
    """One row per trial, as CSV."""
    keys = [dimension.key for dimension in dimensions_of(folder.config)]
    rows = [_row(trial, result.labelled, keys) for result in splits for trial in result.trials]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_text(cell) for name, cell in row.items()} for row in rows)
    return buffer.getvalue()


def _row(trial: Trial, labelled: int | None, keys: Sequence[str]) -> dict[str, object]:
    return {
        "trial": trial.file,
        "split": trial.split,
        "labelled": labelled,
        "number": trial.number,
        **{key: trial.values.get(key, "") for key in keys},
        "outcome": trial.state,
        "miou": _round(trial.score),
        "best_epoch_miou": _round(mean(run.best for run in trial.runs)),
        "epochs": trial.epochs,
        "seeds": len(trial.runs),
        "final_miou": _round(trial.overall) if trial.finals else None,
        "held_out_miou": _round(trial.unseen),
        "seconds": round(sum(run.seconds for run in trial.runs), 1),
        "reason": trial.reason,
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def lines(folder: SearchFolder) -> list[str]:
    """The summary that is printed at the end."""
    splits = split_results(folder)
    trials = [trial for result in splits for trial in result.trials]
    counts = Counter(trial.state for trial in trials)
    outcomes = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
    printed = ["", f"{len(trials)} trials: {outcomes}"]
    printed.append(
        f"{'data.labelled':<14} {'masks':>6} {'baseline':>8} {'best':>7} {'on unseen seeds':>18}  best values"
    )
    printed += [_split_line(result) for result in splits]
    printed += [f"crashed {trial.file}: {trial.reason}" for trial in trials if trial.state == "crashed"]
    return [*printed, f"page {storage.display(storage.join(folder.out, PAGE))}"]


def _split_line(result: SplitResult) -> str:
    if result.best is None:
        return f"{result.split:<14} no trial ran to its end"
    values = " ".join(f"{key}={value}" for key, value in result.best.values.items())
    unseen = f"{_percent(result.held_out_default_miou)} -> {_percent(result.held_out_miou)}"
    scores = f"{_percent(result.default_miou):>8} {_percent(result.miou):>7} {unseen:>18}"
    return f"{result.split:<14} {result.labelled or 0:>6} {scores}  {values} ({result.config})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
