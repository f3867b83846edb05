"""Match images with the rows of a label set by their content or by their file name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.names import nfc
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.data.samples import Sample, sample_digest

_READERS = 8


def match_by_content(samples: Sequence[Sample], labels: str) -> list[Sample]:
    """The samples with the image_id of the row whose image has the same bytes; all images are read.

    Of several rows with these bytes, one with a label is taken, the first by id.

    Args:
        samples: the images.
        labels: folder or URI of the label set.
    """
    rows = [row for row in LabelStore(labels).rows(["image_id", "status", "sha256"]) if row["sha256"]]
    rows.sort(key=lambda row: (row["status"] != "ok", row["image_id"]))
    ids: dict[str, str] = {}
    for row in rows:
        ids.setdefault(row["sha256"], row["image_id"])
    with ThreadPoolExecutor(_READERS) as pool:
        matches = [ids.get(digest or "") for digest in pool.map(sample_digest, samples)]
    return _with_ids(samples, matches)


def match_by_name(samples: Sequence[Sample], labels: str, known: Iterable[str]) -> list[Sample]:
    """The samples with the image_id that ends with the same file name.

    Args:
        samples: the images.
        labels: folder or URI of the label set, for the message.
        known: all ids of the label set.

    Raises:
        UserError: several samples or several ids have one name.
    """
    ids = _by_name(known)
    ours = _by_name(sample.image_id for sample in samples)
    if twice := [name for name in ours if name in ids and max(len(ours[name]), len(ids[name])) > 1]:
        name = min(twice)
        there = ids[name] if len(ids[name]) > 1 else ours[name]
        where = f"in data.labels={storage.display(labels)}" if len(ids[name]) > 1 else "in the data"
        raise UserError(
            f"data.match=name: {len(twice)} names are ambiguous, such as {name}: {there[0]} and {there[1]} "
            f"{where}; data.match=sha256 tells them apart"
        )
    names = (_name(sample.image_id) for sample in samples)
    return _with_ids(samples, [ids[name][0] if name in ids else None for name in names])


def _with_ids(samples: Sequence[Sample], ids: Sequence[str | None]) -> list[Sample]:
    return [replace(sample, label_id=i or "") for sample, i in zip(samples, ids, strict=True)]


def _by_name(ids: Iterable[str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = defaultdict(list)
    for image_id in sorted(ids):
        names[_name(image_id)].append(image_id)
    return dict(names)


def _name(image_id: str) -> str:
    return nfc(image_id).rpartition("/")[2]
