"""`segray evaluate`: label maps against ground-truth masks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import click
import numpy as np

from models.label_space import IGNORE_INDEX
from models.metrics import Confusion
from pipelines.config.settings import EvaluateConfig
from pipelines.errors import UserError
from pipelines.images import decode_gray_png
from pipelines.reporting.evaluation import Evaluation, compare, table, to_csv, to_dict
from pipelines.store import storage
from pipelines.store.label_store import LabelStore
from pipelines.truth import LabelMap, TruthMasks, list_png

_SHOWN = 5


class _Store:
    """The label maps of a label set."""

    def __init__(self, store: LabelStore) -> None:
        self.store = store
        self.classes: tuple[str, ...] | None = tuple(store.provenance["classes"])

    def statuses(self) -> Iterator[tuple[str, str]]:
        for image_id, status, _ in self.store.statuses():
            yield image_id, status

    def maps(self) -> Iterator[tuple[str, bytes]]:
        for row in self.store.rows(columns=["image_id", "status", "label.bytes"]):
            if row["status"] == "ok":
                yield row["image_id"], row["label"]["bytes"]


class _Folder:
    """A folder of greyscale PNG label maps; their ids have no names."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.classes: tuple[str, ...] | None = None
        self._names = list_png(root)
        if not self._names:
            raise UserError(f"labels={storage.display(root)}: no label set there, and no PNG label map")

    def statuses(self) -> Iterator[tuple[str, str]]:
        for image_id in self._names:
            yield image_id, "ok"

    def maps(self) -> Iterator[tuple[str, bytes]]:
        for image_id, name in self._names.items():
            yield image_id, storage.read_bytes(storage.join(self.root, name))


def run(config: EvaluateConfig) -> None:
    """Evaluate, print the table, and write evaluation.json and evaluation.csv."""
    result = evaluate(
        config.labels, config.masks, ignore_index=config.ignore_index, allow_missing=config.allow_missing
    )
    out = config.out or config.labels
    storage.write_atomic(storage.join(out, "evaluation.csv"), to_csv(result).encode())
    document = {"labels": config.labels, "masks": config.masks, **to_dict(result)}
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    storage.write_atomic(storage.join(out, "evaluation.json"), f"{text}\n".encode())
    click.echo(table(result))
    click.echo(f"wrote {storage.display(storage.join(out, 'evaluation.json'))} and evaluation.csv")


def evaluate(
    labels: str, masks: str, *, ignore_index: int = IGNORE_INDEX, allow_missing: bool = False
) -> Evaluation:
    """Score a label set, or a folder of greyscale PNG labels, against a folder of masks; one image at a time.

    Args:
        labels: folder or URI.
        masks: folder or URI, see `TruthMasks`.
        ignore_index: mask pixels with this id are left out.
        allow_missing: leave images without a mask out instead of refusing.

    Raises:
        UserError: nothing to compare, a missing, ambiguous or broken mask, sizes that differ, or an id out of
            range.
    """
    source = _open(labels)
    truth = TruthMasks(masks)
    statuses = dict(source.statuses())
    matched = truth.match(statuses)
    missing = tuple(i for i, status in statuses.items() if status == "ok" and i not in matched)
    if missing and not allow_missing:
        raise UserError(_missing_message(missing, masks))
    classes, confusion, n_images = _count(source, truth, matched, ignore_index)
    if not n_images:
        raise UserError(
            f"evaluate: no labelled image of {storage.display(labels)} has a mask in {storage.display(masks)}"
        )
    not_ok = Counter(status for status in statuses.values() if status != "ok")
    return Evaluation(classes, confusion, n_images, missing, dict(not_ok), len(truth) - len(matched))


def _open(labels: str) -> _Store | _Folder:
    store = LabelStore(labels)
    return _Store(store) if store.parts() else _Folder(labels)


def _count(
    source: _Store | _Folder, truth: TruthMasks, matched: dict[str, str], ignore_index: int
) -> tuple[tuple[str, ...], Confusion, int]:
    # Ids without names are 0 to 254 here; the unused ones are cut off below.
    n_classes = len(source.classes) if source.classes else IGNORE_INDEX
    total = np.zeros((n_classes + 1, n_classes + 1), np.int64)
    n_images = 0
    for image_id, data in source.maps():
        if image_id not in matched:
            continue
        label = _decode(image_id, data)
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


def _decode(image_id: str, data: bytes) -> LabelMap:
    try:
        return decode_gray_png(data)
    except ValueError as problem:
        raise UserError(f"label of {image_id}: {problem}; `segray verify` checks the whole set") from None


def _missing_message(missing: tuple[str, ...], masks: str) -> str:
    first = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    count = f"{len(missing)} labelled image{'s' * (len(missing) > 1)}"
    return f"masks={storage.display(masks)}: no mask for {count}: {first}; allow_missing=true leaves them out"
