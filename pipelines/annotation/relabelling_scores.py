"""Relabel what a labeller made: without embeddings classes are merged or dropped, and a threshold raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.class_scores import merge_classes
from segray.models.label_map import SegmentClasses
from segray.models.label_space import LabelSpace, label_space, name_key
from segray.pipelines.annotation.relabelling import Classify, Relabelling, StoredSegment
from segray.pipelines.config.commands.annotate import FOR_CLIP
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.engine.provenance import fingerprint, provenance, stored_section
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.understood import classes_line, show


def by_scores(config: RelabelConfig, source: LabelStore, model: str) -> Relabelling:
    """What makes a new label set of one by a labeller.

    Args:
        config: of the command. Each name that stands for a class is a class of the label set, or one of its
            names; those of the background are classes that become background.
        source: the label set.
        model: its labeller.

    Raises:
        UserError: a name that the labeller did not look for, a threshold below the one that it cut segments
            with, or templates.
    """
    old = current_provenance(source.provenance)
    before = _stored_threshold(old, source)
    threshold = _threshold(config, before, source, model)
    config = config.model_copy(update={"label": config.label.model_copy(update={"threshold": threshold})})
    try:
        space = label_space(config.classes, config.label.background_names or (), config.label.aliases)
    except ValueError as error:
        raise UserError(str(error)) from error
    new_ids = _new_ids(space, old, source, model)
    show([classes_line(space.classes)])
    section = stored_section(old, "labeller", ["model", "sha256"], source.root)
    record = provenance(config, space, models={"labeller": section}, templates=())
    record["source"] = fingerprint(source.provenance)
    classify = _merging(new_ids, before, threshold)
    return Relabelling(source, config, config.out, record, space.ignore_index, None, classify)


def _stored_threshold(old: dict[str, Any], source: LabelStore) -> float:
    stored = stored_section(old, "config", ["label.threshold"], source.root)["label.threshold"]
    if not isinstance(stored, int | float):
        where = storage.display(source.root)
        raise UserError(f"{where}: its record has no threshold; a label set that segray wrote is needed")
    return float(stored)


def _threshold(config: RelabelConfig, before: float, source: LabelStore, model: str) -> float:
    where = storage.display(source.root)
    if useless := next((key for key in FOR_CLIP if key in config.label.model_fields_set), None):
        raise UserError(
            f"label.{useless} has no effect on {where}, made with annotator={model}; leave it out"
        )
    if "threshold" not in config.label.model_fields_set:
        return before
    if config.label.threshold < before:
        raise UserError(
            f"label.threshold: {config.label.threshold:g} is less than {before:g}, below which "
            f"annotator={model} kept no pixels in {where}; annotate again for more"
        )
    return config.label.threshold


def _new_ids(space: LabelSpace, old: dict[str, Any], source: LabelStore, model: str) -> NDArray[np.int64]:
    """int64 [C], the new id of each old class; -1: dropped."""
    known = _old_names(old)
    new_ids = np.full(len(old["classes"]), -1)
    new_ids[0] = 0
    for class_id, name in space.names():
        old_id = known.get(name_key(name))
        if old_id is None:
            allowed = ", ".join(old["classes"][1:])
            raise UserError(
                f"classes: {storage.display(source.root)} was made with annotator={model}, which stores no "
                f"embeddings, so that relabel merges its classes ({allowed}) and cannot look for {name!r}: "
                "annotate again for other names"
            )
        if new_ids[old_id] not in (-1, class_id):
            both = " and ".join(repr(space.classes[i]) for i in (new_ids[old_id], class_id))
            raise UserError(f"classes: {both} are both the class {old['classes'][old_id]!r} of the label set")
        new_ids[old_id] = class_id
    return new_ids


def _old_names(old: dict[str, Any]) -> dict[str, int]:
    """Old ids by the names of classes and their prompts, as `name_key`."""
    prompts = old.get("prompts")
    groups = _list(prompts.get("names") if isinstance(prompts, dict) else None)
    spoken = groups if len(groups) == len(old["classes"]) else []
    known = {name_key(str(name)): i for i, group in enumerate(spoken) for name in _list(group)}
    return known | {name_key(name): i for i, name in enumerate(old["classes"]) if i}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _merging(new_ids: NDArray[np.int64], before: float, threshold: float) -> Classify:
    def classify(rows: Sequence[StoredSegment]) -> SegmentClasses:
        best = np.array([row["class_id"] for row in rows], np.int64)
        second = np.array([row["runner_up_class"] for row in rows], np.int64)
        if (np.concatenate([best, second]) >= len(new_ids)).any() or (best < 0).any():
            raise ValueError("a segment with a class that the label set does not have")
        score, margin = (np.array([row[key] for row in rows], np.float32) for key in ("score", "margin"))
        ids = best.astype(np.int16), second.astype(np.int16)
        stored = SegmentClasses(ids[0], score, margin, score, ids[1], score > np.float32(before))
        return merge_classes(stored, new_ids, threshold)

    return classify
