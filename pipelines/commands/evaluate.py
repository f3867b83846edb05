"""`segray evaluate`: label maps, or what a trained network predicts, against ground-truth masks."""

from __future__ import annotations

import json
from collections import Counter

import click
import numpy as np

from segray.models.label_space import IGNORE_INDEX
from segray.models.metrics import Confusion
from segray.pipelines.config.commands.evaluate import EvaluateConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.ground_truth import TruthMasks
from segray.pipelines.reporting.evaluation import Evaluation, compare, table, to_csv, to_dict
from segray.pipelines.reporting.label_maps import LabelMaps, NetworkMaps, open_labels

_SHOWN = 5


def run(config: EvaluateConfig) -> None:
    """Evaluate, print the table, and write evaluation.json and evaluation.csv.

    Raises:
        UserError: as `execute` raises.
    """
    result, out = execute(config)
    click.echo(table(result))
    click.echo(f"wrote {storage.display(storage.join(out, 'evaluation.json'))} and evaluation.csv")


def execute(config: EvaluateConfig) -> tuple[Evaluation, str]:
    """Evaluate, and write evaluation.json and evaluation.csv; the scores, and the folder of the files.

    Raises:
        UserError: keys that do not go together, or as `score` raises.
    """
    source = _source(config)
    result = score(source, config.masks, ignore_index=config.ignore_index, allow_missing=config.allow_missing)
    out = config.out or source.home
    storage.write_atomic(storage.join(out, "evaluation.csv"), to_csv(result).encode())
    document = {**source.record, "masks": config.masks, **to_dict(result)}
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    storage.write_atomic(storage.join(out, "evaluation.json"), f"{text}\n".encode())
    return result, out


def evaluate(
    labels: str, masks: str, *, ignore_index: int = IGNORE_INDEX, allow_missing: bool = False
) -> Evaluation:
    """`score` of a label set, or of a folder of greyscale PNG labels, by its folder or URI."""
    return score(open_labels(labels), masks, ignore_index=ignore_index, allow_missing=allow_missing)


def score(
    source: LabelMaps, masks: str, *, ignore_index: int = IGNORE_INDEX, allow_missing: bool = False
) -> Evaluation:
    """Score label maps against a folder of masks; one image at a time.

    Args:
        source: the label maps.
        masks: folder or URI, see `TruthMasks`.
        ignore_index: mask pixels with this id are left out.
        allow_missing: leave images without a mask out instead of refusing.

    Raises:
        UserError: nothing to compare, a missing, ambiguous or broken mask, sizes that differ, or an id out of
            range.
    """
    truth = TruthMasks(masks)
    statuses = source.statuses()
    matched = truth.match(statuses)
    missing = tuple(i for i, status in statuses.items() if status == "ok" and i not in matched)
    if missing and not allow_missing:
        raise UserError(_missing_message(missing, source.noun, masks))
    classes, confusion, n_images = _count(source, truth, matched, ignore_index)
    if not n_images:
        of = storage.display(source.record.get("images", source.home))
        raise UserError(f"evaluate: no {source.noun} of {of} has a mask in {storage.display(masks)}")
    not_ok = Counter(status for status in statuses.values() if status != "ok")
    return Evaluation(classes, confusion, n_images, missing, dict(not_ok), len(truth) - len(matched))


def _source(config: EvaluateConfig) -> LabelMaps:
    if config.labels is not None and config.checkpoint is not None:
        raise UserError("labels, checkpoint: give one of the two, not both")
    if config.checkpoint is not None:
        if config.images is None:
            raise UserError("images: checkpoint needs them, give images=FOLDER")
        return NetworkMaps(config.checkpoint, config.images, config.window, config.image.roots)
    if config.labels is None:
        raise UserError("labels: required, give labels=DIR, or checkpoint=DIR and images=FOLDER")
    if config.images is not None or config.window is not None:
        raise UserError("images, window: allowed only with checkpoint; labels are compared as they are")
    return open_labels(config.labels)


def _count(
    source: LabelMaps, truth: TruthMasks, matched: dict[str, str], ignore_index: int
) -> tuple[tuple[str, ...], Confusion, int]:
    # Ids without names are 0 to 254 here; the unused ones are cut off below.
    n_classes = len(source.classes) if source.classes else IGNORE_INDEX
    total = np.zeros((n_classes + 1, n_classes + 1), np.int64)
    n_images = 0
    for image_id, label in source.maps(matched):
        mask = truth.read(
            matched[image_id], shape=label.shape, n_classes=n_classes, ignore_index=ignore_index
        )
        try:
            total += compare(mask, label, n_classes, ignore_index)
        except ValueError as problem:
            raise UserError(f"label of {image_id} {problem}; `segray verify` checks the whole set") from None
        n_images += 1
    if source.classes:
        return source.classes, total, n_images
    used = np.flatnonzero((total.sum(0) + total.sum(1))[:-1])
    keep = [*range(int(used.max(initial=0)) + 1), n_classes]
    return tuple(f"class {i}" for i in keep[:-1]), total[np.ix_(keep, keep)], n_images


def _missing_message(missing: tuple[str, ...], noun: str, masks: str) -> str:
    first = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    count = f"{len(missing)} {noun}{'s' * (len(missing) > 1)}"
    return f"masks={storage.display(masks)}: no mask for {count}: {first}; allow_missing=true leaves them out"
