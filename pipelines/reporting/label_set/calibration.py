"""What a calibration changed, for the page of the label set that it made."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from segray.models.label_space import ignore_index_of
from segray.models.plain_yaml import MAX_BYTES, read_plain_yaml
from segray.pipelines.calibration.description import FILE, LEAST_CHANGE
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

_MOST_BYTES = 256 * 2**20
"""Bytes that calibration.json may have: it names every image with a mask."""
_COUNTED = ["image_id", "status", "width", "height", "class_ids", "class_pixels"]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Gain(BaseModel):
    miou: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
    standard_error: Annotated[float, Field(ge=0, le=100)] | None


class _ClassScores(BaseModel):
    iou_before: _Share | None
    iou_after: _Share | None


class _Description(BaseModel):
    """What the page needs of calibration.json."""

    masks: Annotated[int, Field(ge=1)]
    segments: Annotated[int, Field(ge=1)] | None = None
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
        share: of its pixels that have another label now.
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
        images: those of the whole label set in which the areas of the classes changed most.
        problems: why something is missing.
    """

    scores: _Description | None
    changes: Sequence[ClassChange]
    images: Sequence[ChangedImage]
    problems: Sequence[str]


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
    scores, images, problems = None, [], []
    try:
        scores = _description(store.root, len(legend.names))
    except UserError as error:
        problems.append(f"No figures: {visible(str(error))}.")
    try:
        # What masks taught while the images were labelled has no label set from before.
        images = _images(store, legend, photos, n) if "source" in store.provenance else []
    except UserError as error:
        problems.append(f"No images: {visible(str(error))}.")
    return CalibrationSection(scores, _changes(scores, legend) if scores else [], images, problems)


def _description(root: str, n_classes: int) -> _Description:
    path = storage.join(root, FILE)
    try:
        found = _Description.model_validate_json(storage.read_bytes(path, _MOST_BYTES))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"][:3]))
        what = f"{place}: {problem['msg']}" if place else problem["msg"]
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


def _images(store: LabelStore, legend: Legend, photos: Photos, n: int) -> list[ChangedImage]:
    """The images that changed most, if the label set as it was can be read.

    Raises:
        UserError: it cannot. config.yaml may be anyone's: it leads to no bucket, to no label set but the one
            that was calibrated, and outside of the user's folders the reason is not told.
    """
    place = _source_place(store.root)
    shown, known = storage.display(place), root_of(place, absolute_roots([store.root, *photos.also]))
    if known is None and (is_chained(place) or not storage.is_local(place)):
        raise UserError(
            f"labels={shown} is in config.yaml, which may be anyone's; {ROOTS_KEY}=FOLDER allows it"
        )
    try:
        source = LabelStore(place)
        if fingerprint(source.provenance) != store.provenance.get("source"):
            raise UserError(f"{shown} is another label set")
        images = list(_drawn(store, source, legend, photos, n))
    except (UserError, OSError, ValueError, TypeError, ImportError) as error:
        why = f"{ROOTS_KEY}=FOLDER tells why" if known is None else " ".join(str(error).split())[:400]
        raise UserError(f"{shown} is not the label set that was calibrated; {why}") from None
    if not images:
        raise UserError(f"the areas of the classes are those of {shown}")
    return sorted(images, key=lambda image: -image.share)


def _source_place(root: str) -> str:
    path = storage.join(root, "config.yaml")
    try:
        place = read_plain_yaml(storage.read_bytes(path, MAX_BYTES))["labels"]
    except (OSError, ValueError, TypeError, KeyError):
        place = None
    if not isinstance(place, str):
        raise UserError(f"{storage.display(path)} names no label set that was calibrated")
    return place


def _drawn(
    store: LabelStore, source: LabelStore, legend: Legend, photos: Photos, n: int
) -> Iterator[ChangedImage]:
    pairs = heapq.nlargest(n, _pairs(store, source), key=lambda pair: pair[0].confidence)
    chosen = [new for new, _ in pairs]
    rows = read_chosen(source, [old for _, old in pairs], ["image_id", "label"])
    before = {row["image_id"]: row for row in rows}
    photos = replace(photos, uris=read_uris(store.root, [choice.image_id for choice in chosen]))
    unknown = ignore_index_of(len(legend.names))
    for row in read_chosen(store, chosen):
        was, now = (map_of(of, "label", unknown) for of in (before[row["image_id"]], row))
        if was.shape != now.shape:
            raise UserError(f"the label of {row['image_id']} had another size")
        sample = make_sample(row, legend, photos, None)
        overlay = thumbnails.label_overlay(was, legend.palette, opaque=not sample.photo)
        yield ChangedImage(sample, overlay, float(np.mean(was != now)))


def _pairs(store: LabelStore, source: LabelStore) -> Iterator[tuple[Choice, Choice]]:
    """Each image whose classes have other areas now: where it is and where it was.

    `Choice.confidence` is half the difference of the areas, as a share of the pixels.
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
    old, new = _areas(was), _areas(now)
    moved = sum(abs(new.get(i, 0) - old.get(i, 0)) for i in {*old, *new})
    return float(moved / max(1, 2 * now["width"] * now["height"]))


def _areas(row: Mapping[str, Any]) -> dict[int | None, int]:
    """Pixels by class; None: those without a known one."""
    areas: dict[int | None, int] = dict(zip(row["class_ids"], row["class_pixels"], strict=True))
    areas[None] = row["width"] * row["height"] - sum(areas.values())
    return areas
