"""`segray report`: one HTML page of a label set or a training run, without scripts or external resources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from segray.models.label_space import LabelSpace
from segray.pipelines.commands.evaluate import evaluate
from segray.pipelines.config.commands.report import ReportConfig
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.corrections.store import CorrectedStore
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.schema import stored_palette
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.printing import echo, visible
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.evaluation import Evaluation
from segray.pipelines.reporting.label_set.calibration import calibration_section
from segray.pipelines.reporting.label_set.samples import Legend, Photos, Sample, make_sample
from segray.pipelines.reporting.label_set.summary import (
    N_BINS,
    Choice,
    Totals,
    choose,
    read_chosen,
    read_uris,
    totals,
)
from segray.pipelines.reporting.page import Bar, bars, config_text, facts, percent, render
from segray.pipelines.reporting.training import page
from segray.pipelines.reporting.training.history import is_training_run
from segray.pipelines.understood import name_some


def run(config: ReportConfig) -> None:
    """Write report.html into the label set, or into the training run.

    Raises:
        UserError: `out` is neither, or damaged.
    """
    html = _page(config).encode()
    uri = storage.join(config.out, "report.html")
    storage.write_atomic(uri, html)
    echo(f"wrote {storage.display(uri)} ({len(html) / 1e6:.1f} MB)")


def _page(config: ReportConfig) -> str:
    if LabelStore(config.out).parts():
        roots = config.image.roots
        options = MaskOptions.of_keys(config, config.image)
        return build(config.out, masks=config.masks, n=config.n, roots=roots, options=options)
    if not is_training_run(config.out):
        raise UserError(f"out={storage.display(config.out)}: no label set here, and no training run")
    if config.masks:
        raise UserError("masks: a training run has validation masks of its own; leave masks out")
    return page.build(config.out, config.n, config.image.roots)


def build(
    root: str,
    *,
    masks: str | None = None,
    n: int = 12,
    roots: tuple[str, ...] = (),
    options: MaskOptions | None = None,
) -> str:
    """The page as HTML.

    Args:
        root: the label set, folder or URI.
        masks: ground truth to show and to score against, see `MaskFolder`.
        n: number of the least and of the most certain images to show.
        roots: folders of the user where images may be, see `read_labelled`.
        options: how masks are read.

    Raises:
        UserError: no label set there, or a part or a mask is damaged.
    """
    store = CorrectedStore(root)
    provenance = current_provenance(store.provenance)
    legend = _legend(provenance)
    counted = totals(store, len(legend.names))
    score = None
    if masks and counted.n_ok:
        score = evaluate(root, masks, options, allow_missing=True)
    least, most = choose(store, n)
    photos = Photos(root, read_uris(root, [c.image_id for c in least + most]), roots)
    truth = MaskFolder(masks, options) if masks else None
    if truth is not None:
        truth.bind(LabelSpace(tuple(provenance["classes"]), ()))
    parts = {choice.image_id: choice.part for choice in least + most}
    rows = (store.correct(row, parts[row["image_id"]]) for row in read_chosen(store, least + most))
    samples = {row["image_id"]: make_sample(row, legend, photos, truth) for row in rows}
    groups = [_group("least", least, samples), _group("most", most, samples)]
    # What a person corrected later, the masks did not choose.
    calibration = calibration_section(LabelStore(root), legend, photos, n)
    shown = facts({**provenance, "run": store.run() or {}}, "label set")
    return render(
        "report.html",
        title=visible(storage.display(root)),
        totals=counted,
        segmented=provenance.get("sam", {}).get("model") != "none",
        of_pixels=provenance.get("config", {}).get("label.unsegmented") == "pixels",
        score=score,
        masks=visible(storage.display(masks)) if masks else "",
        legend=[(name, legend.colour(i)) for i, name in enumerate(legend.names)],
        absent=name_some([n for n, pixels in zip(legend.names, counted.pixels, strict=True) if not pixels]),
        not_in_masks=name_some(score.absent) if score else "",
        groups=[group for group in groups if group["samples"]],
        calibration=calibration,
        charts=_charts(counted, legend, score),
        histogram=_histogram(counted),
        facts=shown,
        builtin=_uses_builtin(shown),
        config=config_text(root),
        provenance=json.dumps(provenance, indent=2, ensure_ascii=False),
    )


def _uses_builtin(shown: Mapping[str, list[tuple[str, str]]]) -> bool:
    models = {value for rows in shown.values() for key, value in rows if key.endswith("model")}
    return bool(models & {"builtin", "picture_book"})


def _legend(provenance: Mapping[str, Any]) -> Legend:
    classes = tuple(visible(str(name)) for name in provenance["classes"])
    return Legend(classes, stored_palette(provenance))


def _group(kind: str, choices: list[Choice], samples: Mapping[str, Sample]) -> dict[str, object]:
    return {"kind": kind, "samples": [samples[c.image_id] for c in choices]}


def _charts(counted: Totals, legend: Legend, score: Evaluation | None) -> dict[str, list[Bar]]:
    """Bars of each class but 0 by caption, the most frequent class first."""
    ids = sorted(range(1, len(legend.names)), key=lambda i: (-counted.pixels[i], i))
    charts = {
        "Share of the pixels": bars(ids, legend, counted.pixels / max(1, counted.n_pixels), percent),
        "Images with the class": bars(ids, legend, counted.images.astype(float), "{:,.0f}".format),
    }
    if score is not None:
        charts["IoU against the masks"] = bars(ids, legend, score.iou, percent, longest=1.0)
    return charts


def _histogram(counted: Totals) -> list[Bar]:
    highest = max(1, int(counted.histogram.max()))
    ramp = thumbnails.ramp()
    columns = []
    for i, count in enumerate(counted.histogram.tolist()):
        colour = "#" + bytes(ramp[int(255 * (i + 0.5) / N_BINS)]).hex()
        name = f"{i / N_BINS:.2f} to {(i + 1) / N_BINS:.2f}"
        columns.append(Bar(name, colour, count / highest, f"{count:,} image{'s' * (count != 1)}"))
    return columns
