"""The folder that `segray predict` writes: what made it, which images are pending, and the files at the end.

masks/, overlays/, confidence/, predictions.csv, coco.json, class_names.txt, prediction.json and
manifest.parquet.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping

from segray.pipelines.io import output_record, pending, storage
from segray.pipelines.io.manifest import MANIFEST, ImageRef, read_manifest
from segray.pipelines.prediction import coco
from segray.pipelines.prediction.job import CONFIDENCE, MASKS, OVERLAYS, Job
from segray.pipelines.prediction.rows import ImageRow, ImageRows, entry
from segray.pipelines.printing import csv_text
from segray.pipelines.training.data.class_names import FILE as CLASS_NAMES

TABLE, RECORD = "predictions.csv", "prediction.json"
_COLUMNS = ("image_id", "status", "error", "mean_confidence")


def made_with(out: str) -> dict[str, object] | None:
    """As `output_record.made_with`, of predictions."""
    return output_record.made_with(out, RECORD, "segray predict")


def begin(
    job: Job, record: Mapping[str, object], images: Iterable[ImageRef], rows: ImageRows
) -> tuple[int, int]:
    """Write the run's record, manifest and list of pending images.

    Args:
        job: the run.
        record: what made the predictions, and where their images are.
        images: strictly ascending by image_id.
        rows: of the images so far.

    Returns:
        The number of images, and how many of them are pending.
    """
    # First, as the images may be refused: a folder with a record is one of this run's settings.
    total, changed = pending.refresh_manifest(job.out, images)
    _write_record(job, record)
    # The table marks a complete run.
    storage.delete(storage.join(job.out, TABLE))
    for image_id in changed:
        storage.delete(job.mask(image_id))
    pending.commit_manifest(job.out)
    return total, pending.write_pending(job.out, _done(job, rows))


def _write_record(job: Job, record: Mapping[str, object]) -> None:
    document = {"made_with": record, "checkpoint": storage.redacted(job.checkpoint), "classes": job.classes}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    storage.write_atomic(storage.join(job.out, RECORD), f"{text}\n".encode())
    names = "".join(f"{name}\n" for name in job.classes)
    storage.write_atomic(storage.join(job.out, CLASS_NAMES), names.encode())


def _done(job: Job, rows: ImageRows) -> set[str]:
    """Ids with a row, a mask and the other files that the run writes."""
    done = rows.done(objects=job.files.coco) & _ids(storage.join(job.out, MASKS), ".png")
    if job.files.overlays:
        done &= _ids(storage.join(job.out, OVERLAYS), ".jpg")
    return done & _ids(storage.join(job.out, CONFIDENCE), ".png") if job.files.confidence else done


def _ids(folder: str, suffix: str) -> set[str]:
    names = (file.name for file in storage.list_files(folder))
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}


def finish(job: Job, rows: ImageRows, bad: Mapping[str, tuple[str, str]]) -> None:
    """Write coco.json and predictions.csv, which marks a complete run.

    Args:
        job: the run.
        rows: of all images with a mask.
        bad: status and reason of each image without one.
    """
    path = storage.join(job.out, coco.FILE)
    # An earlier run's file must not lack images that are new.
    known = job.files.coco or rows.done(objects=True) >= rows.done(objects=False) - bad.keys()
    if storage.exists(path) and not known:
        storage.delete(path)
    elif job.files.coco or storage.exists(path):
        chunks = coco.document(job.classes, lambda: map(entry, good_rows(job, rows, bad)))
        storage.write_chunks(path, chunks)
    storage.write_chunks(storage.join(job.out, TABLE), _table(job, rows, bad))


def good_rows(job: Job, rows: ImageRows, bad: Collection[str]) -> Iterator[ImageRow]:
    """The rows of the images with a mask, in the order of the manifest."""
    for ref in read_manifest(storage.join(job.out, MANIFEST)):
        row = None if ref.image_id in bad else rows.get(ref.image_id)
        if row is not None:
            yield row


def _table(job: Job, rows: ImageRows, bad: Mapping[str, tuple[str, str]]) -> Iterator[bytes]:
    yield _line(_COLUMNS)
    for ref in read_manifest(storage.join(job.out, MANIFEST)):
        row = rows.get(ref.image_id)
        confidence = "" if row is None or ref.image_id in bad else f"{row['mean_confidence']:.4f}"
        yield _line((ref.image_id, *bad.get(ref.image_id, ("ok", "")), confidence))


def _line(cells: Iterable[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(map(csv_text, cells))
    return buffer.getvalue().encode()
