"""Corrections follow a label set that is made again with other classes, prompts or thresholds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from segray.models.label_map import LabelMap
from segray.models.masks import encode_rle, segment_from_mask
from segray.pipelines.corrections.apply import CorrectedLabel
from segray.pipelines.corrections.correction import Correction, effective, following_key
from segray.pipelines.corrections.log import CorrectionLog
from segray.pipelines.corrections.store import CorrectedStore

Names = Mapping[str | None, str | None]


def class_names_between(old: Sequence[str], new: Sequence[str]) -> dict[str | None, str | None]:
    """What a class given by hand is called in another label set; None: unknown there.

    Who said "background" said "none of these classes". Where there are more, it may be one of the others.

    Args:
        old: the classes of the corrections.
        new: of the other label set.
    """
    names: dict[str | None, str | None] = {name: name if name in new[1:] else None for name in old[1:]}
    names[old[0]] = new[0] if set(new[1:]) <= set(old[1:]) else None
    return {**names, None: None}


def class_runs(label: LabelMap, classes: Sequence[str]) -> Iterator[tuple[int, str | None, bytes]]:
    """Id, name and run lengths of each class of a label map; the name of ignored pixels is None."""
    for class_id in np.unique(label).tolist():
        name = classes[class_id] if class_id < len(classes) else None
        yield class_id, name, encode_rle(segment_from_mask(label == class_id), *label.shape)[1]


def carry_corrections(source: str, target: str) -> int:
    """Append the corrections of a label set to the log of one that was made of it; those that it has stay.

    A good image keeps all that it showed: its pixels are painted, as the new label set may show others.

    Args:
        source: folder or URI of the label set that was read.
        target: of the one that was written; its images and segments have the same ids.

    Returns:
        How many were appended.

    Raises:
        UserError: corrections that cannot be read or written.
    """
    by_image = CorrectionLog(source).by_image()
    if not by_image:
        return 0
    store, log = CorrectedStore(source, by_image), CorrectionLog(target)
    classes = tuple(store.provenance["classes"])
    names = class_names_between(classes, CorrectedStore(target, {}).provenance["classes"])
    good = {i for i, group in by_image.items() if any(c.kind == "good" for c in effective(group))}
    carried = [_renamed(one, classes[0], names) for group in by_image.values() for one in group]
    for image_id, label in store.corrected_labels(good):
        carried += _painted(by_image[image_id], label, classes, names)
    there = log.keys()
    new = [one for one in carried if one.key not in there]
    log.append(new)
    return len(new)


def _renamed(one: Correction, background: str, names: Names) -> Correction:
    if one.kind == "erase" and names[background] is None:
        return replace(one, kind="name", class_name=None)
    return replace(one, class_name=names[one.class_name])


def _painted(
    corrections: Sequence[Correction], corrected: CorrectedLabel, classes: Sequence[str], names: Names
) -> Iterator[Correction]:
    """One paint for each class that the image shows, after its last correction; always with the same keys."""
    last = max(corrections, key=lambda one: one.key)
    for class_id, name, mask in class_runs(corrected.label, classes):
        suffix = hashlib.sha256(f"{last.key} {class_id} {last.image}".encode()).hexdigest()[:8]
        yield replace(
            last,
            key=following_key(last.key, suffix),
            kind="paint",
            segments=(),
            class_name=names[name],
            mask=mask,
            target=None,
        )
