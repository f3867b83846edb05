"""The stages of prediction after reading, which is annotation's: predict, then encode and write."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import LabelSpace, ignore_index_of
from segray.models.segmenters.inference import Window
from segray.models.segmenters.registry import Segmenter
from segray.pipelines.annotation.stages.base import Stage, to_table
from segray.pipelines.annotation.stages.schemas import READ_SCHEMA, pixels_of
from segray.pipelines.engine.cpu import reuse_freed_memory, use_threads
from segray.pipelines.engine.guard import Guard, failed
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.label_set.schema import ID_LIST, class_counts
from segray.pipelines.training.data.class_names import has_background

MASKS, OVERLAYS = "masks", "overlays"
MAX_TRIES = 3
"""An image that kills its worker this often becomes an error row."""
BATCH = 4
"""Images that a task or a worker takes: few, so that full-size pixels never pile up."""
STOP = "stop"
"""Status of a row whose error must end the run: Ray Data keeps only the text of a worker's exception."""

_NOTE = pa.field("note", pa.string())
PREDICTED_SCHEMA = READ_SCHEMA.append(pa.field("label", pa.binary())).append(_NOTE)
"""After the network: `label` is the raw [H, W] of `label_dtype`; the pixels stay only where an overlay needs
them, and `note` is what the user should know."""
ROW_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("class_ids", ID_LIST),
        ("class_pixels", ID_LIST),
        _NOTE,
    ]
)
"""What remains of an image when its files are written."""
_JPEG_SIDE = 65_500


@dataclass(frozen=True)
class Job:
    """What every worker of a run must know.

    Attributes:
        checkpoint: absolute path or URI of the checkpoint.
        sha256: of the weights that predict.
        classes: the name of each id.
        out: absolute path or URI of the output.
        overlays: whether to write them.
        window: which images are predicted piece by piece.
        options: of the decoder.
    """

    checkpoint: str
    sha256: str
    classes: tuple[str, ...]
    out: str
    overlays: bool
    window: Window
    options: ImageOptions

    def mask(self, image_id: str) -> str:
        """Where the mask of an image goes; of `a.jpg` and `a.png` to different files."""
        return storage.join(self.out, MASKS, f"{image_id}.png")

    def overlay(self, image_id: str) -> str:
        """Where the overlay of an image goes."""
        return storage.join(self.out, OVERLAYS, f"{image_id}.jpg")


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
        from segray.pipelines.training.trained import predict_label

        notes: list[str] = []
        ids = len(self._job.classes)
        label = predict_label(self._network, pixels_of(row), self._job.window, notes.append, ids=ids)
        pixels = row["pixels"] if self._job.overlays else None
        return {**row, "label": label.tobytes(), "pixels": pixels, "note": notes[-1] if notes else None}


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
        encoded = self.guard.run(self.name, table.to_pylist(), self.process)
        return to_table([write_row(row, self._job) for row in encoded], self.schema)

    def process(self, rows: list[Row]) -> list[Row]:
        """Encode."""
        return [encode_row(row, self._job) for row in rows]


def encode_row(row: Row, job: Job) -> Row:
    """One image's mask as PNG, overlay as JPEG or None, and pixels per class."""
    ignored = ignore_index_of(len(job.classes))
    label = np.frombuffer(row["label"], label_dtype(ignored)).reshape(row["height"], row["width"])
    ids, pixels = class_counts(label, ignored)
    return {
        **row,
        "mask": encode_gray_png(label),
        "overlay": overlay(pixels_of(row), label, job.classes) if job.overlays else None,
        "class_ids": ids,
        "class_pixels": pixels,
    }


def overlay(pixels: NDArray[np.uint8], label: LabelMap, classes: tuple[str, ...]) -> bytes:
    """A JPEG of the image, half covered by the colours of its classes; "no class" stays uncovered.

    JPEG has no sides above 65,535 pixels: larger images are made smaller.

    Args:
        pixels: [H, W, 3], RGB.
        label: [H, W].
        classes: the name of each id.
    """
    palette = LabelSpace(classes, ((),) * len(classes)).palette()
    blended = (pixels // 2) + (palette[label] // 2)
    if has_background(classes):
        blended[label == 0] = pixels[label == 0]
    image = Image.fromarray(blended)
    image.thumbnail((_JPEG_SIDE, _JPEG_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_row(row: Row, job: Job) -> Row:
    """Write an image's files, the mask last: it marks the image as done.

    A name that the file system does not allow makes a bad row; any other failure, such as a full disk,
    makes a `STOP`.
    """
    if row["status"] != "ok":
        return row
    try:
        if row["overlay"] is not None:
            storage.write_atomic(job.overlay(row["image_id"]), row["overlay"])
        storage.write_atomic(job.mask(row["image_id"]), row["mask"])
    except UserError as problem:
        if unfit := storage.unfit_name(problem):
            reason = f"no file of this name can be written to {MASKS} or {OVERLAYS} ({unfit})"
            return {**failed(row, reason), "class_ids": None, "class_pixels": None}
        return {**row, "status": STOP, "error": str(problem)}
    return row
