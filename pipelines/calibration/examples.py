"""The images with masks as calibration sees them: stored segments beside true pixels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.calibration.regions import MaskedImage, masked_image
from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import LabelSpace, ignore_index_of
from segray.pipelines.annotation.relabelling import (
    damaged_row,
    embeddings_of,
    segments_by_image,
)
from segray.pipelines.corrections.carry import class_names_between
from segray.pipelines.corrections.store import CorrectedStore
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.label_set.stored_segments import decode_segments
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.masks.options import MaskOptions
from segray.pipelines.training.data.splits import read_names
from segray.pipelines.understood import name_some

_SHOWN = 3
MOST_SEGMENTS = 8192
"""Segments that stand for all of a label set."""
_MOST_PARTS = 32

ReadMask = Callable[[tuple[int, int]], LabelMap]
"""The true mask of an image of (height, width), ignored pixels `ignore_index_of`.

Raises:
    UserError: no mask of that size with ids of the classes.
"""


def folder_masks(
    masks: str,
    options: MaskOptions,
    statuses: Mapping[str, str],
    classes: tuple[str, ...],
    *,
    split: str | None,
    allow_missing: bool,
) -> dict[str, ReadMask]:
    """The masks of a folder by image_id.

    Args:
        masks: the folder; or a label set with corrections, whose good images are masks as a whole, other
            ones where a hand was.
        options: how masks are read.
        statuses: status of each image of the label set.
        classes: its classes.
        split: a file of the images to use; None: all.
        allow_missing: leave out masks whose image has no label.

    Raises:
        UserError: a mask whose image has no label, or a listed image without a mask.
    """
    if LabelStore(masks).parts():
        return _corrected_masks(masks, statuses, classes, split, options.prefix)
    folder = MaskFolder(masks, options)
    folder.bind(LabelSpace(classes, ()))
    matched = folder.match(statuses)
    where = f"{options.masks_key}={storage.display(masks)}"
    allow = f"{options.prefix}allow_missing=true"
    if split is not None:
        matched = _listed(split, matched, statuses, where, f"{options.prefix}split")
    elif not allow_missing and (extra := sorted(set(folder.names) - set(matched.values()))):
        raise UserError(
            f"{where}: {name_some(extra, _SHOWN)}: no image of the label set has this name (it has "
            f"{name_some(sorted(statuses), _SHOWN)}); {allow} leaves such masks out"
        )
    bad = [image_id for image_id in matched if statuses[image_id] != "ok"]
    if bad and not allow_missing:
        raise UserError(f"{where}: {name_some(bad, _SHOWN)} has no label in the label set; {allow}")
    matched = {image_id: name for image_id, name in matched.items() if statuses[image_id] == "ok"}
    if not matched:
        raise UserError(f"{where}: no image of the label set has a mask there")
    folder.check_kind(matched.values(), classes)

    def reader(name: str) -> ReadMask:
        return lambda shape: folder.read(name, shape=shape, n_classes=len(classes))

    return {image_id: reader(name) for image_id, name in matched.items()}


def _corrected_masks(
    masks: str, statuses: Mapping[str, str], classes: tuple[str, ...], split: str | None, prefix: str
) -> dict[str, ReadMask]:
    """The corrected images of a label set, by their ids in another one."""
    store = CorrectedStore(masks)
    where = f"{prefix}masks={storage.display(masks)}"
    old, unknown = tuple(store.provenance["classes"]), ignore_index_of(len(classes))
    names = class_names_between(old, classes)
    table = np.full(1 + np.iinfo(label_dtype(store.ignore_index)).max, unknown, label_dtype(unknown))
    for i, name in enumerate(map(names.get, old)):
        table[i] = unknown if name is None else classes.index(name)
    found: dict[str, LabelMap] = {
        image_id: table[corrected.trusted(store.ignore_index)]
        for image_id, corrected in store.corrected_labels()
        if statuses.get(image_id) == "ok"
    }
    if split is not None:
        listed = _listed(split, {i: i for i in found}, statuses, where, f"{prefix}split")
        found = {name: found[name] for name in listed}
    taught = {image_id: mask for image_id, mask in found.items() if (mask != unknown).any()}
    if not taught:
        raise UserError(f"{where}: a label set in which no image of this one is corrected")
    return {image_id: _checked(mask, where, image_id) for image_id, mask in taught.items()}


def _checked(mask: LabelMap, where: str, image_id: str) -> ReadMask:
    def read(shape: tuple[int, int]) -> LabelMap:
        if mask.shape != shape:
            sizes = " and ".join(f"{s[1]}x{s[0]}" for s in (mask.shape, shape))
            raise UserError(f"{where}: {image_id} has another size there: {sizes} pixels")
        return mask

    return read


def _listed(
    split: str, matched: Mapping[str, str], statuses: Collection[str], where: str, key: str
) -> dict[str, str]:
    """The masks of the images of a split file, which `key` names."""
    names = read_names(split, key, statuses)
    if missing := [name for name in names if name not in matched]:
        raise UserError(
            f"{key}={storage.display(split)}: {name_some(missing, _SHOWN)} has no mask in {where}"
        )
    return {name: matched[name] for name in names}


def read_examples(
    source: LabelStore, masks: Mapping[str, ReadMask], n_classes: int, dim: int
) -> dict[str, MaskedImage]:
    """What calibration needs of each image with a mask, by image_id, ascending.

    Raises:
        UserError: a damaged row, or a mask that does not fit its image.
        DamagedPartError: a part cannot be read.
    """
    parts = {part for image_id, _, part in source.statuses() if image_id in masks}
    examples: dict[str, MaskedImage] = {}
    for part in sorted(parts):
        by_image = segments_by_image(source, part)
        for row in source.rows(["image_id", "status", "height", "width"], [part]):
            image_id = row["image_id"]
            if image_id in masks and row["status"] == "ok":
                examples[image_id] = _example(
                    source, part, row, by_image.get(image_id, []), masks[image_id], n_classes, dim
                )
    return dict(sorted(examples.items()))


@dataclass(frozen=True)
class SampledSegments:
    """Segments of a label set, most of them without a mask.

    Attributes:
        embeddings: float16 [n, D].
        stability: [n], SAM's stability scores.
    """

    embeddings: NDArray[np.float16]
    stability: NDArray[np.float64]


def sample_segments(source: LabelStore, dim: int, leave_out: Collection[str] = ()) -> SampledSegments:
    """At most `MOST_SEGMENTS` of a label set, evenly spread over it.

    Args:
        source: the label set.
        dim: D.
        leave_out: ids of images whose segments are not read.

    Raises:
        UserError: a damaged row.
        DamagedPartError: a part cannot be read.
    """
    parts = sorted(source.parts())
    read = parts[:: -(-len(parts) // _MOST_PARTS)]
    share = MOST_SEGMENTS // len(read)
    embeddings, stability = [np.zeros((0, dim), np.float16)], [np.zeros(0)]
    for part in read:
        table = source.segments(part, ["image_id", "embedding", "stability_score"])
        kept = np.flatnonzero(~np.isin(table["image_id"].to_numpy(), sorted(leave_out)))
        rows = table.take(kept[:: max(1, -(-len(kept) // share))]).to_pylist()
        for row in rows:
            try:
                _check_embedding(row, dim)
                _check_stability(row["stability_score"])
            except ValueError as problem:
                raise damaged_row(source, part, row["image_id"], problem) from problem
        embeddings.append(embeddings_of(rows, dim))
        stability.append(np.array([row["stability_score"] for row in rows], float))
    return SampledSegments(np.concatenate(embeddings), np.concatenate(stability))


def _check_embedding(row: Mapping[str, Any], dim: int) -> None:
    values = row["embedding"]
    if values is None or len(values) != dim or not np.isfinite(np.array(values, float)).all():
        raise ValueError("an embedding that is missing or not finite")


def _check_stability(score: float | None) -> None:
    if score is None or not np.isfinite(score):
        raise ValueError("a stability score that is missing or not finite")


def _example(
    source: LabelStore,
    part: str,
    row: Mapping[str, Any],
    stored: list[Any],
    read: ReadMask,
    n_classes: int,
    dim: int,
) -> MaskedImage:
    try:
        segments = decode_segments(stored, row["height"], row["width"])
        for segment in stored:
            _check_embedding(segment, dim)
            _check_stability(segment["stability_score"])
    except (ValueError, TypeError) as problem:
        raise damaged_row(source, part, row["image_id"], problem) from problem
    truth = read((row["height"], row["width"]))
    embeddings = embeddings_of(stored, dim).astype(np.float32)
    return masked_image(segments, embeddings, truth, n_classes)
