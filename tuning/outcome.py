"""What tables and the page of a search say of a split or a trial."""

from __future__ import annotations

from segray.tuning.ledger import Ledger, Trial, mean


def best_file(name: str) -> str:
    """The configuration of a split's best trial."""
    return f"best-{name}.yaml"


def default_of(ledger: Ledger, split: str) -> Trial | None:
    """The configuration as it stands, where it ran to the end."""
    return next((one for one in ledger.trials(split) if one.number == 0 and one.state == "done"), None)


def labelled_of(ledger: Ledger, split: str) -> int | None:
    """How many images a split has masks of."""
    return next((run.labelled for one in ledger.trials(split) for run in one.runs), None)


def held_out_score(trial: Trial | None) -> float | None:
    """Mean mIoU over the unseen seeds."""
    return mean([run.miou for run in trial.held_out]) if trial else None
