"""What the pages of `segray report` share: rendering, percentages, bars, tables of a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.io import storage
from segray.pipelines.printing import visible
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.label_set.samples import Legend

_TEMPLATES = Path(__file__).parents[1] / "templates"
# Shown elsewhere on the page, duplicated in the files, or too long for a table.
_NOT_LISTED = frozenset(
    {"classes", "palette", "prompts", "run.config_hash", "run.versions", "run.classes", "run.bad"}
)
_LONG = 160


@dataclass(frozen=True)
class Bar:
    """One bar of a bar chart.

    Attributes:
        name: of the class or the key.
        colour: as CSS has it.
        length: 0 to 1.
        text: the value.
    """

    name: str
    colour: str
    length: float
    text: str


def render(template: str, **values: object) -> str:
    """Render a page as HTML; every value is escaped.

    Args:
        template: file name under pipelines/templates.
        values: the variables of the template.
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
    page = environment.get_template(template).render(ramp=ramp, error_colours=errors, **values)
    # What is shown was stored by any segray, or by anyone.
    return storage.redacted(page)


def percent(share: float | None) -> str:
    """A share of 0 to 1 in percent; "-" for None and nan. 100 % and 0 % are never rounded values."""
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
) -> list[Bar]:
    """One bar per class.

    Args:
        ids: the classes, in the order of the bars.
        legend: names and colours.
        values: one per class; nan has no bar.
        text: formats a value.
        longest: the value of a full bar; None: the greatest.
    """
    class_ids = list(ids)
    longest = longest or max((float(values[i]) for i in class_ids), default=0.0) or 1.0
    lengths = {i: 0.0 if math.isnan(values[i]) else float(values[i]) / longest for i in class_ids}
    return [Bar(legend.names[i], legend.colour(i), lengths[i], text(float(values[i]))) for i in class_ids]


def facts(record: Mapping[str, object], top: str) -> dict[str, list[tuple[str, str]]]:
    """(key, text) of the record's values, grouped by their first key; values outside a group come first.

    Args:
        record: nested values.
        top: name of the group of values that are not nested.
    """
    groups: dict[str, list[tuple[str, str]]] = {top: []}
    for path, text in _flatten(record, ""):
        group, _, key = path.partition(".")
        groups.setdefault(group if key else top, []).append((key or path, text))
    return {group: rows for group, rows in groups.items() if rows}


def config_text(root: str) -> str:
    """config.yaml under a folder, with invisible characters escaped; "" without one."""
    try:
        text = storage.read_bytes(storage.join(root, "config.yaml")).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(visible(line) for line in text.splitlines())


def _flatten(values: Mapping[str, object], prefix: str) -> list[tuple[str, str]]:
    """(dotted key, text) of nested values, without empty ones and those too long for a table."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = visible(f"{prefix}{key}")
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{name}.") if name not in _NOT_LISTED else []
        elif name not in _NOT_LISTED and value is not None and value != []:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows += [(name, visible(text))] if len(text) <= _LONG else []
    return rows
