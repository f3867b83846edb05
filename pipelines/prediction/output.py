"""The folder that `segray predict` writes: what made it, which images are pending, and the table at the end.

masks/, overlays/, predictions.csv, class_names.txt, prediction.json and manifest.parquet.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping

from segray.pipelines.io import output_record, pending, storage
from segray.pipelines.io.manifest import MANIFEST, ImageRef, read_manifest
from segray.pipelines.prediction.stages import MASKS, OVERLAYS, Job
from segray.pipelines.printing import csv_text
from segray.pipelines.training.data.class_names import FILE as CLASS_NAMES

TABLE, RECORD = "predictions.csv", "prediction.json"


def made_with(out: str) -> dict[str, object] | None:
    """As `output_record.made_with`, of predictions."""
    return output_record.made_with(out, RECORD, "segray predict")


def check_same(out: str, before: Mapping[str, object] | None, now: Mapping[str, object]) -> None:
    """Refuse to mix the predictions of two checkpoints, or of two sets of images, in one folder.

    Raises:
        UserError: with the difference, on one line.
    """
    output_record.check_same(out, before, now, "predictions")


def begin(job: Job, record: Mapping[str, object], images: Iterable[ImageRef]) -> tuple[int, int]:
    """Write the run's record, manifest and list of pending images.

    Args:
        job: the run.
        record: what `check_same` compares.
        images: strictly ascending by image_id.

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
    return total, pending.write_pending(job.out, _done(job))


def _write_record(job: Job, record: Mapping[str, object]) -> None:
    document = {"made_with": record, "checkpoint": storage.redacted(job.checkpoint), "classes": job.classes}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    storage.write_atomic(storage.join(job.out, RECORD), f"{text}\n".encode())
    names = "".join(f"{name}\n" for name in job.classes)
    storage.write_atomic(storage.join(job.out, CLASS_NAMES), names.encode())


def _done(job: Job) -> set[str]:
    """Ids with a mask, and with an overlay if the run writes overlays."""
    done = _ids(storage.join(job.out, MASKS), ".png")
    return done & _ids(storage.join(job.out, OVERLAYS), ".jpg") if job.overlays else done


def _ids(folder: str, suffix: str) -> set[str]:
    names = (file.name for file in storage.list_files(folder))
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}


def write_table(job: Job, bad: Mapping[str, tuple[str, str]]) -> None:
    """Write predictions.csv: every image of the manifest once, with its status and why it is bad.

    Args:
        job: the run.
        bad: status and reason of each image without a mask.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image_id", "status", "error"])
    for ref in read_manifest(storage.join(job.out, MANIFEST)):
        writer.writerow(map(csv_text, [ref.image_id, *bad.get(ref.image_id, ("ok", ""))]))
    storage.write_atomic(storage.join(job.out, TABLE), buffer.getvalue().encode())
