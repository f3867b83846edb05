"""What a calibration says of itself: calibration.json beside its label set, and the lines of the command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segray.models.calibration.heads import Array
from segray.models.calibration.selection import Outcome
from segray.models.metrics import class_iou

FILE = "calibration.json"
LEAST_CHANGE = 0.005
"""IoU, in 0..1, from which a class is listed as changed."""
_SHOWN = 4


def scores_record(classes: Sequence[str], before: Outcome, after: Outcome) -> dict[str, Any]:
    """The gain on the images with masks, and the IoU of each class, before and after."""
    gain, error = after.gain_over(before)
    return {
        "gain": {"miou": gain, "standard_error": error if np.isfinite(error) else None},
        "classes": [
            {"name": name, "iou_before": _number(old), "iou_after": _number(new)}
            for name, old, new in _class_changes(classes, before, after)
        ],
    }


def transition_record(classes: Sequence[str], transition: Array, prior: Array) -> dict[str, Any]:
    """The transition matrix [C, C] and the prior [C], as `pseudo.posterior=transition` reads them."""
    return {
        "classes": list(classes),
        "rows": "label",
        "columns": "truth",
        "shares": np.round(transition, 6).tolist(),
        "prior": np.round(prior, 6).tolist(),
    }


def to_json(description: Mapping[str, Any]) -> bytes:
    """The description as a file."""
    return f"{json.dumps(description, indent=2, allow_nan=False, ensure_ascii=False)}\n".encode()


def score_lines(classes: Sequence[str], before: Outcome, after: Outcome) -> list[str]:
    """The mIoU on the images with masks, before and after, and the classes that changed."""
    gain, error = after.gain_over(before)
    known = f" +- {100 * error:.1f} (standard error)" if np.isfinite(error) else ""
    lines = [
        f"  {'':<16}{'before':>8}{'after':>8}",
        f"  {'all':<16}{before.miou:>8.1%}{after.miou:>8.1%}  {100 * gain:+.1f}{known}",
    ]
    for name, old, new in _class_changes(classes, before, after):
        same = abs(np.nan_to_num(new) - np.nan_to_num(old)) < LEAST_CHANGE
        if not (same or (np.isnan(old) and np.isnan(new))):
            lines.append(f"  {name:<16}{_percent(old):>8}{_percent(new):>8}")
    return lines


def average_text(weights: Mapping[str, float]) -> str:
    """An average of candidates, by their names."""
    ordered = sorted(((weight, name) for name, weight in weights.items()), reverse=True)[:_SHOWN]
    return f"average of {len(weights)} candidates: " + ", ".join(f"{name} ({w:.0%})" for w, name in ordered)


def count_masks(count: int) -> str:
    """`8 masks`."""
    return f"{count} mask{'s' * (count != 1)}"


def _class_changes(classes: Sequence[str], before: Outcome, after: Outcome) -> list[tuple[str, float, float]]:
    """(class, IoU before, IoU after); nan where a class does not occur."""
    old, new = (class_iou(outcome.confusions.sum(0)).tolist() for outcome in (before, after))
    return list(zip(classes, old, new, strict=True))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1%}"
