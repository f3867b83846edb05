"""The stages of prediction after reading, which is annotation's: predict, then encode and write."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from segray.models.label_map import levels_of
from segray.models.segmenters.registry import Segmenter
from segray.pipelines.annotation.stages.base import Stage, rows_of, to_table
from segray.pipelines.annotation.stages.raw_columns import raw
from segray.pipelines.annotation.stages.schemas import READ_SCHEMA, image_view
from segray.pipelines.engine.cpu import reuse_freed_memory, use_threads
from segray.pipelines.engine.guard import Guard, failed
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.schema import ID_LIST
from segray.pipelines.prediction.encoding import encode_row, statistics
from segray.pipelines.prediction.job import MASKS, OVERLAYS, Job

MAX_TRIES = 3
"""An image that kills its worker this often becomes an error row."""
BATCH = 4
"""Images that a task or a worker takes: few, so that full-size pixels never pile up."""
STOP = "stop"
"""Status of a row whose error must end the run: Ray Data keeps only the text of a worker's exception."""

_STATISTICS = [
    ("class_ids", ID_LIST),
    ("class_pixels", ID_LIST),
    ("class_confidence", pa.list_(pa.float64())),
    ("mean_confidence", pa.float64()),
]
_PREDICTED = [("label", pa.binary()), ("confidence", pa.binary()), *_STATISTICS, ("note", pa.string())]
PREDICTED_SCHEMA = pa.schema([*READ_SCHEMA, *(pa.field(*column) for column in _PREDICTED)])
"""After the network: `label` is the raw [H, W] of `label_dtype`, `confidence` uint8 in 255ths, where it is
needed; the pixels stay only where an overlay needs them, and `note` is what the user should know."""
ROW_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        *_STATISTICS,
        ("objects", pa.string()),
        ("note", pa.string()),
    ]
)
"""What remains of an image when its files are written; `objects` is JSON."""


class PredictImages(Stage):
    """The network over a batch of images; the worker loads it once.

    If the checkpoint is no longer the one that the run began with, all rows come out as `STOP`.
    """

    name, schema = "predict", PREDICTED_SCHEMA

    def __init__(self, job: Job, plan: PoolPlan, guard: Guard) -> None:
        super().__init__(guard)
        self._job, self._problem, self._threads = job, "", plan.threads
        try:
            self._network = _load(job, plan)
        except UserError as problem:
            self._problem = str(problem)

    def __call__(self, table: pa.Table) -> pa.Table:
        """READ_SCHEMA to PREDICTED_SCHEMA."""
        use_threads(self._threads)
        return super().__call__(table)

    def process(self, rows: list[Row]) -> list[Row]:
        """Add the labels."""
        if self._problem:
            return [{**row, "status": STOP, "error": self._problem} for row in rows]
        return [self._predict(row) for row in rows]

    def _predict(self, row: Row) -> Row:
        from segray.pipelines.training.trained import predict_image

        notes: list[str] = []
        files, ids = self._job.files, len(self._job.classes)
        pixels = np.require(image_view(row), requirements="W")
        found = predict_image(self._network, pixels, self._job.inference, notes.append, ids=ids)
        levels = raw(levels_of(found.confidence)) if files.confidence or files.coco else b""
        return {
            **row,
            "label": raw(found.label),
            "confidence": levels,
            **statistics(found.label, found.confidence, ids),
            "pixels": row["pixels"] if files.overlays else None,
            "note": notes[-1] if notes else None,
        }


def _load(job: Job, plan: PoolPlan) -> Segmenter:
    import torch

    from segray.pipelines.training.session import device_of_worker
    from segray.pipelines.training.trained import load_network, weights_sha256

    if not plan.num_gpus:
        reuse_freed_memory()
    network, state = load_network(job.checkpoint)
    if weights_sha256(state) != job.sha256:
        where = storage.display(job.checkpoint)
        raise UserError(f"checkpoint={where} has changed since this run began; run the command again")
    return network.to(device_of_worker() if plan.num_gpus else torch.device("cpu"))


class WriteMasks(Stage):
    """PREDICTED_SCHEMA to ROW_SCHEMA: encode, then write each image's files."""

    name, schema = "encode", ROW_SCHEMA

    def __init__(self, job: Job, guard: Guard) -> None:
        super().__init__(guard)
        self._job = job

    def __call__(self, table: pa.Table) -> pa.Table:
        """PREDICTED_SCHEMA to ROW_SCHEMA. Only encoding is guarded: a failed write is no image's fault."""
        encoded = self.guard.run(self.name, rows_of(table), self.process)
        return to_table([write_row(row, self._job) for row in encoded], self.schema)

    def process(self, rows: list[Row]) -> list[Row]:
        """Encode."""
        return [encode_row(row, self._job) for row in rows]


def write_row(row: Row, job: Job) -> Row:
    """Write an image's files, the mask last: it marks the image as done.

    A name that the file system does not allow makes a bad row; any other failure, such as a full disk,
    makes a `STOP`.
    """
    if row["status"] != "ok":
        return row
    image_id = row["image_id"]
    try:
        if row["overlay"] is not None:
            storage.write_atomic(job.overlay(image_id), row["overlay"])
        if row["confidence_png"] is not None:
            storage.write_atomic(job.confidence(image_id), row["confidence_png"])
        storage.write_atomic(job.mask(image_id), row["mask"])
    except UserError as problem:
        if unfit := storage.unfit_name(problem):
            return failed(row, f"no file of this name can be written to {MASKS} or {OVERLAYS} ({unfit})")
        return {**row, "status": STOP, "error": str(problem)}
    return row
