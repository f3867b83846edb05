"""The files of a search: results.csv, results.json, a configuration per split and the page; its summary."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from segray.pipelines.config.commands.train import TrainConfig
from segray.pipelines.config.commands.tune import TuneConfig, dimensions_of, splits_of
from segray.pipelines.config.loading import dump_redacted
from segray.pipelines.io import storage
from segray.pipelines.printing import csv_text
from segray.tuning.folder import SearchFolder, configured, split_names
from segray.tuning.records import State, Trial, mean
from segray.tuning.report.page import build
from segray.tuning.report.splits import SplitResult, split_results, trials_in_order

RESULTS, TABLE, PAGE = "results.json", "results.csv", "report.html"
_STATES: tuple[State, ...] = ("done", "stopped", "diverged", "crashed", "running")

Cell = str | float | None


def write(folder: SearchFolder) -> None:
    """Write or update all files beside the trials."""
    if not folder.trials():
        return
    _put(folder, RESULTS, json.dumps(results(folder), indent=1) + "\n")
    _put(folder, TABLE, table(folder))
    for result in split_results(folder):
        if result.best is not None:
            best = _best_config(folder.config, result.split, result.best)
            _put(folder, result.config_file, dump_redacted(best))
    _put(folder, PAGE, build(folder))


def _best_config(config: TuneConfig, split: str, best: Trial) -> TrainConfig:
    out = storage.join(config.out, "best", split_names(splits_of(config))[split])
    return configured(config, best).model_copy(update={"out": out})


def _put(folder: SearchFolder, name: str, text: str) -> None:
    storage.write_atomic(storage.join(folder.out, name), text.encode())


def results(folder: SearchFolder) -> dict[str, object]:
    """All results for programs: the best trial and the baseline of each split, and every trial."""
    return {
        "space": {key: text for key, text in folder.config.space.items() if text is not None},
        "splits": [_split_record(result) for result in split_results(folder)],
        "trials": [
            {**asdict(trial), "score": trial.score, "overall": trial.overall}
            for trial in trials_in_order(folder)
        ],
    }


def _split_record(result: SplitResult) -> dict[str, object]:
    best = result.best
    return {
        "split": result.split,
        "labelled": result.labelled,
        "best": best.file if best else None,
        "values": best.values if best else None,
        "miou": result.miou,
        "default_miou": result.baseline_miou,
        "held_out_miou": result.unseen,
        "held_out_default_miou": result.baseline_unseen,
        "config": result.config_file if best else None,
    }


def table(folder: SearchFolder) -> str:
    """One row per trial, as CSV."""
    keys = [dimension.key for dimension in dimensions_of(folder.config)]
    head = ["trial", "split", "labelled", "number", *keys, "outcome", "miou", "best_epoch_miou", "epochs"]
    head += ["seeds", "final_miou", "held_out_miou", "seconds", "reason"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    labelled = {result.split: result.labelled for result in split_results(folder)}
    rows = (_row(trial, labelled[trial.split], keys) for trial in trials_in_order(folder))
    writer.writerows(map(csv_text, row) for row in rows)
    return buffer.getvalue()


def _row(trial: Trial, labelled: int | None, keys: Sequence[str]) -> list[Cell]:
    runs = trial.runs
    row: list[Cell] = [trial.file, trial.split, labelled, trial.number]
    row += [trial.values.get(key, "") for key in keys]
    row += [trial.state, _round(trial.score), _round(mean([run.best for run in runs]))]
    row += [mean([run.epoch for run in runs]), len(runs)]
    row += [_round(trial.overall) if trial.finals else None, _round(trial.unseen)]
    return [*row, round(sum(run.seconds for run in runs), 1), trial.reason]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def lines(folder: SearchFolder) -> list[str]:
    """The summary that is printed at the end."""
    trials = trials_in_order(folder)
    counts = Counter(trial.state for trial in trials)
    outcomes = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
    printed = ["", f"{len(trials)} trials: {outcomes}", _head()]
    printed += [_split_line(result) for result in split_results(folder)]
    printed += [f"crashed {trial.file}: {trial.reason}" for trial in trials if trial.state == "crashed"]
    return [*printed, f"page {storage.display(storage.join(folder.out, PAGE))}"]


def _head() -> str:
    names = f"{'data.labelled':<14} {'masks':>6} {'baseline':>8} {'best':>7} {'on unseen seeds':>18}"
    return f"{names}  best values"


def _split_line(result: SplitResult) -> str:
    if result.best is None:
        return f"{result.split:<14} no trial ran to its end"
    values = " ".join(f"{key}={value}" for key, value in result.best.values.items())
    unseen = f"{_percent(result.baseline_unseen)} -> {_percent(result.unseen)}"
    scores = f"{_percent(result.baseline_miou):>8} {_percent(result.miou):>7} {unseen:>18}"
    return f"{result.split:<14} {result.labelled or 0:>6} {scores}  {values} ({result.config_file})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
