"""What a calibration changed, for the page of the label set that it made."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from segray.models.label_space import ignore_index_of
from segray.pipelines.calibration.label_set import FILE
from segray.pipelines.config.source import parse_yaml
from segray.pipelines.engine.provenance import fingerprint
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.received import ROOTS_KEY, absolute_roots, root_of
from segray.pipelines.io.uris import is_chained
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.printing import visible
from segray.pipelines.reporting import thumbnails
from segray.pipelines.reporting.label_set.samples import Legend, Photos, Sample, make_sample, map_of
from segray.pipelines.reporting.label_set.summary import Choice, read_chosen, read_uris

LEAST_CHANGE = 0.005
"""IoU, in 0..1, from which a class is listed as changed."""

_COUNTED = ["image_id", "status", "width", "height", "class_ids", "class_pixels"]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Gain(BaseModel):
    miou: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
    standard_error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


class _ClassScores(BaseModel):
    iou_before: _Share | None
    iou_after: _Share | None


class _Description(BaseModel):
    """What the page needs of calibration.json."""

    masks: Annotated[int, Field(ge=1)]
    segments: Annotated[int, Field(ge=1)]
    miou_before: _Share
    miou_after: _Share
    gain: _Gain
    classes: list[_ClassScores]


@dataclass(frozen=True)
class ClassChange:
    """IoU of a class on the images with masks, each named by what the others taught; None: no such pixel."""

    name: str
    colour: str
    before: float | None
    after: float | None

    @property
    def points(self) -> float:
        """The difference in points; of a class that one of them lacks, its IoU."""
        return 100 * ((self.after or 0.0) - (self.before or 0.0))


@dataclass(frozen=True)
class ChangedImage:
    """An image whose label changed.

    Attributes:
        sample: as it is now.
        before: its label map as it was, a data URI.
        share: of its pixels that have another class now.
    """

    sample: Sample
    before: str
    share: float


@dataclass(frozen=True)
class CalibrationSection:
    """What the page says of the calibration.

    Attributes:
        scores: of calibration.json; None if it cannot be read.
        changes: of the classes, the greatest first.
        images: the most changed ones, of all in the label set.
        problem: why something is missing; "" if nothing is.
    """

    scores: _Description | None
    changes: Sequence[ClassChange] = ()
    images: Sequence[ChangedImage] = ()
    problem: str = ""


def calibration_section(
    store: LabelStore, legend: Legend, photos: Photos, n: int
) -> CalibrationSection | None:
    """The section of a calibrated label set; None for another one.

    Args:
        store: the label set.
        legend: names and colours of its classes.
        photos: reads its images.
        n: number of images to show.
    """
    if "calibration" not in store.provenance:
        return None
    try:
        scores = _description(store.root, len(legend.names))
    except UserError as error:
        return CalibrationSection(None, problem=visible(str(error)))
    try:
        images, problem = _images(store, _source(store, photos.also), legend, photos, n), ""
    except UserError as error:
        images, problem = [], visible(str(error))
    return CalibrationSection(scores, _changes(scores, legend), images, problem)


def _description(root: str, n_classes: int) -> _Description:
    path = storage.join(root, FILE)
    try:
        found = _Description.model_validate_json(storage.read_bytes(path))
    except ValidationError as error:
        what = error.errors(include_url=False)[0]["msg"]
        raise UserError(f"{storage.display(path)} is damaged ({what})") from None
    except OSError:
        raise UserError(f"{storage.display(path)} cannot be read") from None
    if len(found.classes) != n_classes:
        raise UserError(
            f"{storage.display(path)} has {len(found.classes)} classes, the label set {n_classes}"
        )
    return found


def _changes(scores: _Description, legend: Legend) -> list[ClassChange]:
    every = [
        ClassChange(legend.names[i], legend.colour(i), of_class.iou_before, of_class.iou_after)
        for i, of_class in enumerate(scores.classes)
    ]
    listed = [change for change in every if abs(change.points) >= 100 * LEAST_CHANGE]
    return sorted(listed, key=lambda change: -abs(change.points))


def _source(store: LabelStore, roots: Sequence[str]) -> LabelStore:
    """The label set that was calibrated, if it is where config.yaml says.

    Raises:
        UserError: it is not; a received config.yaml leads to no bucket, and to no other label set.
    """
    path = storage.join(store.root, "config.yaml")
    try:
        place = parse_yaml(storage.read_bytes(path), storage.display(path)).get("labels")
    except OSError:
        raise UserError(f"{storage.display(path)} cannot be read") from None
    if not isinstance(place, str):
        raise UserError(f"{storage.display(path)} names no label set that was calibrated")
    remote = is_chained(place) or not storage.is_local(place)
    if remote and root_of(place, absolute_roots(roots)) is None:
        raise UserError(
            f"labels={storage.display(place)} is in config.yaml, which may be anyone's; "
            f"{ROOTS_KEY}=FOLDER allows it"
        )
    source = LabelStore(place)
    if not source.parts() or fingerprint(source.provenance) != store.provenance.get("source"):
        raise UserError(f"{storage.display(place)}: the label set that was calibrated is not here any more")
    return source


def _images(
    store: LabelStore, source: LabelStore, legend: Legend, photos: Photos, n: int
) -> list[ChangedImage]:
    pairs = heapq.nlargest(n, _pairs(store, source), key=lambda pair: pair[0].confidence)
    before = {row["image_id"]: row for row in read_chosen(source, [old for _, old in pairs])}
    after = {row["image_id"]: row for row in read_chosen(store, [new for new, _ in pairs])}
    photos = replace(photos, uris=read_uris(store.root, list(after)))
    unknown = ignore_index_of(len(legend.names))
    images = []
    for image_id in (new.image_id for new, _ in pairs):
        was, now = (map_of(rows[image_id], "label", unknown) for rows in (before, after))
        if was.shape != now.shape:
            raise UserError(f"{image_id}: its label had another size before")
        sample = make_sample(after[image_id], legend, photos, None)
        drawn = thumbnails.label_overlay(was, legend.palette, opaque=not sample.photo)
        images.append(ChangedImage(sample, drawn, float(np.mean(was != now))))
    return images


def _pairs(store: LabelStore, source: LabelStore) -> Iterator[tuple[Choice, Choice]]:
    """Each image whose classes have other numbers of pixels now, with where it is and where it was.

    `Choice.confidence` is half the difference of the numbers, as a share of the pixels.
    """
    known = set(source.parts())
    for part in (part for part in store.parts() if part in known):
        old = {row["image_id"]: (i, row) for i, row in enumerate(source.rows(columns=_COUNTED, parts=[part]))}
        for i, row in enumerate(store.rows(columns=_COUNTED, parts=[part])):
            j, was = old.get(row["image_id"], (0, None))
            if was is None or row["status"] != "ok" or was["status"] != "ok":
                continue
            if change := _difference(was, row):
                yield Choice(change, row["image_id"], part, i), Choice(change, row["image_id"], part, j)


def _difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    counts = ((row["class_ids"] or (), row["class_pixels"] or ()) for row in (was, now))
    old, new = (dict(zip(ids, pixels, strict=True)) for ids, pixels in counts)
    moved = sum(abs(new.get(i, 0) - old.get(i, 0)) for i in {*old, *new})
    return float(moved / max(1, 2 * now["width"] * now["height"]))
