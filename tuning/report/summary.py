"""What a search came to: lines, results.csv, results.json, a configuration a split, and the page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from segray.pipelines.config.commands.tune import TuneConfig
from segray.pipelines.config.loading import dump
from segray.pipelines.io import storage
from segray.tuning.ledger import Ledger, Trial, configured, mean, split_names
from segray.tuning.outcome import best_file, default_of, held_out_score, labelled_of
from segray.tuning.page import build
from segray.tuning.plan import dimensions_of, splits_of

RESULTS, TABLE, PAGE = "results.json", "results.csv", "report.html"


def write(ledger: Ledger) -> None:
    """Write all that a search leaves beside its trials; again whenever there are more of them."""
    if not ledger.trials():
        return
    _put(ledger, RESULTS, json.dumps(results(ledger), indent=1) + "\n")
    _put(ledger, TABLE, table(ledger))
    for split, name in split_names(splits_of(ledger.config)).items():
        best = ledger.best(split)
        if best is not None:
            _put(ledger, best_file(name), dump(_best_config(ledger.config, best, name)))
    _put(ledger, PAGE, build(ledger))


def _best_config(config: TuneConfig, best: Trial, name: str) -> Any:
    out = storage.join(config.out, "best", name)
    return configured(config, best).model_copy(update={"out": out})


def _put(ledger: Ledger, name: str, text: str) -> None:
    storage.write_atomic(storage.join(ledger.out, name), text.encode())


def results(ledger: Ledger) -> dict[str, Any]:
    """Everything that is known, for programs: the best and the defaults of each split, and all trials."""
    config = ledger.config
    return {
        "space": {key: written for key, written in config.space.items() if written is not None},
        "splits": [_split(ledger, split, name) for split, name in split_names(splits_of(config)).items()],
        "trials": [{**asdict(one), "score": one.score, "overall": one.overall} for one in _in_order(ledger)],
    }


def _split(ledger: Ledger, split: str, name: str) -> dict[str, Any]:
    best, default = ledger.best(split), default_of(ledger, split)
    return {
        "split": split,
        "labelled": labelled_of(ledger, split),
        "best": best.file if best else None,
        "values": best.values if best else None,
        "miou": best.overall if best else None,
        "default_miou": default.overall if default else None,
        "held_out_miou": held_out_score(best),
        "held_out_default_miou": held_out_score(default),
        "config": best_file(name) if best else None,
    }


def table(ledger: Ledger) -> str:
    """A row a trial, as CSV."""
    keys = [one.key for one in dimensions_of(ledger.config)]
    head = ["trial", "split", "labelled", "number", *keys, "outcome", "miou", "best_epoch_miou", "epochs"]
    head += ["seeds", "final_miou", "held_out_miou", "seconds", "reason"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(_row(ledger, one, keys) for one in _in_order(ledger))
    return buffer.getvalue()


def _row(ledger: Ledger, trial: Trial, keys: Sequence[str]) -> list[Any]:
    runs = trial.runs
    row: list[Any] = [trial.file, trial.split, labelled_of(ledger, trial.split), trial.number]
    row += [trial.values.get(key, "") for key in keys]
    row += [trial.state, _round(trial.score), _round(mean([run.best for run in runs]))]
    row += [mean([run.epoch for run in runs]), len(runs)]
    row += [_round(trial.overall) if trial.finals else None, _round(held_out_score(trial))]
    return [*row, round(sum(run.seconds for run in runs), 1), trial.reason]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _in_order(ledger: Ledger) -> list[Trial]:
    return [one for split in splits_of(ledger.config) for one in ledger.trials(split)]


def lines(ledger: Ledger) -> list[str]:
    """What a person is told at the end."""
    counts = dict.fromkeys(("done", "stopped", "diverged", "crashed", "running"), 0)
    for one in _in_order(ledger):
        counts[one.state] += 1
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    shown = ["", f"{len(_in_order(ledger))} trials: {told}", _head()]
    shown += [_best_line(ledger, split) for split in splits_of(ledger.config)]
    shown += [f"crashed {one.file}: {one.reason}" for one in _in_order(ledger) if one.state == "crashed"]
    return [*shown, f"page {storage.display(storage.join(ledger.out, PAGE))}"]


def _head() -> str:
    names = f"{'data.labelled':<14} {'masks':>6} {'as it stands':>13} {'best':>7} {'on unseen seeds':>18}"
    return f"{names}  best values"


def _best_line(ledger: Ledger, split: str) -> str:
    best, default = ledger.best(split), default_of(ledger, split)
    if best is None:
        return f"{split:<14} no trial ran to its end"
    values = " ".join(f"{key}={value}" for key, value in best.values.items())
    unseen = f"{_percent(held_out_score(default))} -> {_percent(held_out_score(best))}"
    masks = labelled_of(ledger, split) or 0
    name = split_names(splits_of(ledger.config))[split]
    scores = f"{_percent(default.overall if default else None):>13} {_percent(best.overall):>7} {unseen:>18}"
    return f"{split:<14} {masks:>6} {scores}  {values} ({best_file(name)})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
