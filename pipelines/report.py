"""`segray report`: one HTML page that shows a label set, without script and without any outside part."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from models.label_space import IGNORE_INDEX, LabelSpace
from pipelines.config.settings import ReportConfig
from pipelines.evaluate import evaluate
from pipelines.reporting import pictures
from pipelines.reporting.data import N_BINS, Totals, choose, read_chosen, read_uris, totals
from pipelines.reporting.evaluation import Evaluation
from pipelines.reporting.samples import Legend, Sample, make_sample, visible
from pipelines.store import storage
from pipelines.store.label_store import LabelStore
from pipelines.truth import TruthMasks

_TEMPLATES = Path(__file__).parent / "templates"
# Shown elsewhere on the page, twice in the files, or too long for a table.
_NOT_LISTED = frozenset(
    {"classes", "palette", "prompts", "run.config_hash", "run.versions", "run.classes", "run.bad"}
)
_LONG = 160


def run(config: ReportConfig) -> None:
    """Write report.html into the label set."""
    page = build(config.out, masks=config.masks, n=config.n).encode()
    uri = storage.join(config.out, "report.html")
    storage.write_atomic(uri, page)
    click.echo(f"wrote {storage.display(uri)} ({len(page) / 1e6:.1f} MB)")


def build(root: str, *, masks: str | None = None, n: int = 12, ignore_index: int = IGNORE_INDEX) -> str:
    """The page as HTML.

    Args:
        root: the label set, folder or URI.
        masks: ground truth to show and to score against, see `TruthMasks`.
        n: how many of the least and of the most certain images to show.
        ignore_index: mask pixels with this id do not count.

    Raises:
        UserError: no label set there, or a part or a mask is damaged.
    """
    store = LabelStore(root)
    provenance = store.provenance
    legend = _legend(provenance)
    counted = totals(store, len(legend.names))
    score = None
    if masks and counted.n_ok:
        score = evaluate(root, masks, ignore_index=ignore_index, allow_missing=True)
    least, most = choose(store, n)
    uris = read_uris(root, [c.image_id for c in least + most])
    truth = TruthMasks(masks) if masks else None
    samples = {
        row["image_id"]: make_sample(row, legend, uris.get(row["image_id"]), truth, ignore_index)
        for row in read_chosen(store, least + most)
    }
    groups = [_group("least", least, samples), _group("most", most, samples)]
    facts = _facts({**provenance, "run": store.run() or {}})
    return _render(
        title=visible(storage.display(root)),
        totals=counted,
        score=score,
        masks=visible(storage.display(masks)) if masks else "",
        legend=[(name, legend.colour(i)) for i, name in enumerate(legend.names)],
        groups=[group for group in groups if group["samples"]],
        charts=_charts(counted, legend, score),
        facts=facts,
        toy="picture_book"
        in [value for rows in facts.values() for key, value in rows if key.endswith("model")],
        config=_config_text(root),
        provenance=json.dumps(provenance, indent=2, ensure_ascii=False),
    )


def _legend(provenance: Mapping[str, Any]) -> Legend:
    classes = tuple(visible(str(name)) for name in provenance["classes"])
    palette = LabelSpace(classes, ()).palette()
    own = np.asarray(provenance.get("palette") or (), np.uint8).reshape(-1, 3)
    palette[: len(own)] = own
    return Legend(classes, palette)


def _group(kind: str, chosen: list[Any], samples: Mapping[str, Sample]) -> dict[str, Any]:
    return {"kind": kind, "samples": [samples[c.image_id] for c in chosen]}


def _charts(counted: Totals, legend: Legend, score: Evaluation | None) -> dict[str, Any]:
    """Bars of each class but 0, the most frequent first; lengths are shares of the longest."""
    ids = sorted(range(1, len(legend.names)), key=lambda i: (-counted.pixels[i], i))
    charts: dict[str, Any] = {
        "pixels": _bars(ids, legend, counted.pixels / max(1, counted.n_pixels), _percent),
        "images": _bars(ids, legend, counted.images.astype(float), lambda count: f"{count:,.0f}"),
        "histogram": _histogram(counted),
    }
    if score is not None:
        charts["iou"] = _bars(ids, legend, score.iou, _percent, longest=1.0)
    return charts


def _bars(
    ids: list[int], legend: Legend, values: Any, text: Any, longest: float | None = None
) -> list[dict[str, Any]]:
    longest = longest or max((float(values[i]) for i in ids), default=0.0) or 1.0
    return [
        {
            "name": legend.names[i],
            "colour": legend.colour(i),
            "length": 0.0 if math.isnan(values[i]) else float(values[i]) / longest,
            "text": text(float(values[i])),
        }
        for i in ids
    ]


def _histogram(counted: Totals) -> list[dict[str, Any]]:
    highest = max(1, int(counted.histogram.max()))
    ramp = pictures.ramp()
    return [
        {
            "height": count / highest,
            "colour": "#" + bytes(ramp[int(255 * (i + 0.5) / N_BINS)]).hex(),
            "text": f"{i / N_BINS:.2f} to {(i + 1) / N_BINS:.2f}: {count:,} image{'s' * (count != 1)}",
        }
        for i, count in enumerate(counted.histogram.tolist())
    ]


def _facts(record: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """(key, text) of the record's values, grouped by their first key; what stands alone comes first."""
    groups: dict[str, list[tuple[str, str]]] = {"label set": []}
    for path, text in _flatten(record, ""):
        group, _, key = path.partition(".")
        groups.setdefault(group if key else "label set", []).append((key or path, text))
    return {group: rows for group, rows in groups.items() if rows}


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


def _config_text(root: str) -> str:
    try:
        text = storage.read_bytes(storage.join(root, "config.yaml")).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(visible(line) for line in text.splitlines())


def _percent(share: float | None) -> str:
    if share is None or math.isnan(share):
        return "-"
    digits = 2 if 0 < share < 0.01 else 1
    # Only all is 100 %, only nothing is 0 %.
    shown = share if share in (0, 1) else min(max(share, 0.0001), 0.999)
    return f"{100 * shown:.{digits}f}\u00a0%"


def _render(**values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    ramp = ["#" + bytes(colour).hex() for colour in pictures.ramp()[::51]]
    errors = {name: "#" + bytes(colour).hex() for name, colour in pictures.ERROR_COLOURS.items()}
    return environment.get_template("report.html").render(ramp=ramp, error_colours=errors, **values)
