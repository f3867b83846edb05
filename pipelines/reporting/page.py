"""What the pages of `segray report` share: rendering, percentages, bars, tables of a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.io import storage
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.label_set.samples import Legend, visible

_TEMPLATES = Path(__file__).parents[1] / "templates"
# Shown elsewhere on the page, twice in the files, or too long for a table.
_NOT_LISTED = frozenset(
    {"classes", "palette", "prompts", "run.config_hash", "run.versions", "run.classes", "run.bad"}
)
_LONG = 160


def render(template: str, **values: Any) -> str:
    """A page as HTML; every value is escaped.

    Args:
        template: file name under pipelines/templates.
        values: all that the template names.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    ramp = ["#" + bytes(colour).hex() for colour in thumbnails.ramp()[::51]]
    errors = {name: "#" + bytes(colour).hex() for name, colour in thumbnails.ERROR_COLOURS.items()}
    return environment.get_template(template).render(ramp=ramp, error_colours=errors, **values)


def percent(share: float | None) -> str:
    """A share of 0 to 1 in percent; "-" where there is none. Only all is 100 %, only nothing is 0 %."""
    if share is None or math.isnan(share):
        return "-"
    digits = 2 if 0 < share < 0.01 else 1
    shown = share if share in (0, 1) else min(max(share, 0.0001), 0.999)
    return f"{100 * shown:.{digits}f}\u00a0%"


def bars(
    ids: Iterable[int],
    legend: Legend,
    values: NDArray[np.float64] | Sequence[float],
    text: Callable[[float], str],
    longest: float | None = None,
) -> list[dict[str, Any]]:
    """Rows for the template's bars.

    Args:
        ids: the classes, in the order of the rows.
        legend: names and colours.
        values: one a class; nan has no bar.
        text: how a value is written.
        longest: the value whose bar is full; None: the greatest.
    """
    chosen = list(ids)
    longest = longest or max((float(values[i]) for i in chosen), default=0.0) or 1.0
    return [
        {
            "name": legend.names[i],
            "colour": legend.colour(i),
            "length": 0.0 if math.isnan(values[i]) else float(values[i]) / longest,
            "text": text(float(values[i])),
        }
        for i in chosen
    ]


def facts(record: Mapping[str, Any], top: str) -> dict[str, list[tuple[str, str]]]:
    """(key, text) of the record's values, grouped by their first key; what stands alone comes first.

    Args:
        record: nested values.
        top: name of the group of what stands alone.
    """
    groups: dict[str, list[tuple[str, str]]] = {top: []}
    for path, text in _flatten(record, ""):
        group, _, key = path.partition(".")
        groups.setdefault(group if key else top, []).append((key or path, text))
    return {group: rows for group, rows in groups.items() if rows}


def config_text(root: str) -> str:
    """config.yaml under a folder, as it can be shown; "" without one."""
    try:
        text = storage.read_bytes(storage.join(root, "config.yaml")).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(visible(line) for line in text.splitlines())


def _flatten(values: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """(dotted key, text) of nested values, without those that are empty or too long for a table."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = visible(f"{prefix}{key}")
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{name}.") if name not in _NOT_LISTED else []
        elif name not in _NOT_LISTED and value is not None and value != []:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows += [(name, visible(text))] if len(text) <= _LONG else []
    return rows
