"""What a run was trained on: ids, sizes, classes in the masks, some contents. A place is not among it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from segray.pipelines.io import storage
from segray.pipelines.training.data.samples import Sample, TrainingData, sample_digest
from segray.pipelines.training.data.split_sampling import is_amount

DATA = "data.json"
"""Name of the record in the folder of a run or a search."""
PLACE = "a place"
"""In place of where something is, in what is compared."""
SAMPLE = 16
"""Images whose contents are compared, and their masks."""
_READERS = 8
_MAX_BYTES = 1 << 24
"""Of a record, which takes some kilobytes for each split."""
_PLACES = (
    *("data.root", "data.labels", "data.match", "data.annotations", "data.val_annotations"),
    *("data.images", "data.val_images", "data.masks"),
)
"""Keys that say where something is, or how it is found there; what was found is compared instead."""
_SPLITS = ("data.labelled", "data.unlabelled", "data.validation")

Record = Mapping[str, object]


def stored_record(out: str) -> dict[str, object] | None:
    """The record in a folder; None without one, or where it is damaged."""
    try:
        record = json.loads(storage.read_bytes(storage.join(out, DATA), _MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def store_record(out: str, record: Record) -> None:
    """Write the record of a folder.

    Raises:
        UserError: disk full.
    """
    storage.write_atomic(storage.join(out, DATA), f"{json.dumps(record, indent=1)}\n".encode())


def without_places(values: Mapping[str, object]) -> dict[str, object]:
    """Values of `identity` without those that only say where something is."""
    settings = {key: value for key, value in values.items() if key not in _PLACES}
    places = {key: PLACE for key in _SPLITS if is_place(settings.get(key))}
    return settings | places


def is_place(value: object) -> bool:
    """Whether the value of a split is a file or a folder, and not an amount."""
    return isinstance(value, str) and value != "none" and not is_amount(value)


def data_record(data: TrainingData) -> dict[str, object]:
    """The record of a run's data; the contents of `SAMPLE` images and masks are read.

    Args:
        data: of the run.
    """
    parts = {"labelled": data.labelled, "unlabelled": data.unlabelled, "validation": data.validation}
    masks = {"labelled": data.labelled_pixels, "validation": data.validation_pixels}
    record: dict[str, object] = {name: _part(samples) for name, samples in parts.items()}
    record["pixels"] = {name: [*counts.pixels, counts.ignored] for name, counts in masks.items()}
    record["outlines"] = _digest(s.shapes or b"" for s in chain(data.labelled, data.validation))
    record["labels"] = data.label_set
    keys = sorted(correction.key for correction in data.corrections)
    record["corrections"] = _digest(key.encode() for key in keys) if keys else None
    record["matched"] = _digest(s.stored_id.encode() for s in chain(data.unlabelled, data.validation))
    record["contents"] = _contents(list(chain.from_iterable(parts.values())))
    return record


def data_differences(old: Record, new: Record) -> list[str]:
    """One line for each way in which the data of two records differ; [] if it is the same data."""
    lines = list(chain.from_iterable(_part_lines(name, old, new) for name in _parts(new)))
    for name, text in (
        ("outlines", "data: other outlines in the annotation files"),
        ("labels", "data.labels: a label set that was made otherwise"),
        ("corrections", "data.labels: other corrections than those that the run began with"),
        ("matched", "data.labels: other images have labels"),
    ):
        if not lines and old.get(name) != new.get(name):
            lines.append(text)
    if lines:
        return lines
    before, now = _mapping(old, "contents"), _mapping(new, "contents")
    return [
        f"data: {name} is not the file that was trained on" for name in now if now[name] != before.get(name)
    ]


def tells_validation(record: Record | None, data: TrainingData) -> bool:
    """Whether a record tells of exactly these validation images, their sizes, and the pixels of their masks.

    Args:
        record: of a run; None without one.
        data: what was found.
    """
    pixels = data.validation_pixels
    known = _mapping(record or {}, "validation"), _mapping(record or {}, "pixels").get("validation")
    return known == (_part(data.validation), [*pixels.pixels, pixels.ignored])


def _part_lines(name: str, old: Record, new: Record) -> list[str]:
    before, now = _mapping(old, name), _mapping(new, name)
    if before.get("images") != now["images"]:
        return [f"data.{name}: {before.get('images')} images -> {now['images']}"]
    if before.get("ids") != now["ids"]:
        return [f"data.{name}: other images, by their ids"]
    sizes = before.get("sizes"), now["sizes"]
    if None not in sizes and sizes[0] != sizes[1]:
        return [f"data.{name}: other images, by their sizes"]
    if _mapping(old, "pixels").get(name) != _mapping(new, "pixels").get(name):
        return [f"data.{name}: other masks, by the pixels of their classes"]
    return []


def _parts(record: Record) -> Iterable[str]:
    return (name for name in ("labelled", "unlabelled", "validation") if name in record)


def _mapping(record: Record, name: str) -> Mapping[str, object]:
    value = record.get(name)
    return value if isinstance(value, Mapping) else {}


def _part(samples: Sequence[Sample]) -> dict[str, object]:
    known = all(sample.size for sample in samples)
    return {
        "images": len(samples),
        "ids": _digest(sample.image_id.encode() for sample in samples),
        "sizes": _digest(str(sample.size).encode() for sample in samples) if known else None,
    }


def _contents(samples: Sequence[Sample]) -> dict[str, str | None]:
    """sha256 of some images and of their masks, by id; None where a file cannot be read."""
    chosen = samples[:: max(1, len(samples) // SAMPLE)][:SAMPLE]
    with ThreadPoolExecutor(_READERS) as pool:
        images = pool.map(sample_digest, chosen)
        masked = [sample for sample in chosen if sample.mask_id and sample.shapes is None]
        masks = pool.map(_mask_digest, masked)
        return {
            **dict(zip((sample.image_id for sample in chosen), images, strict=True)),
            **dict(zip((f"mask {sample.mask_id}" for sample in masked), masks, strict=True)),
        }


def _mask_digest(sample: Sample) -> str | None:
    try:
        return hashlib.sha256(sample.options.read(str(sample.mask))).hexdigest()
    except ValueError:
        return None


def _digest(values: Iterable[bytes]) -> str:
    return hashlib.sha256(json.dumps([value.hex() for value in values]).encode()).hexdigest()
