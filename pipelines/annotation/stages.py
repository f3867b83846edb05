"""The stages of annotation: read, segment (SAM), name (GEM-CLIP), encode.

Each takes rows and returns rows; `TableStage` makes it a map over Arrow tables for Ray Data. A row that is
not ok passes through untouched, so rows out are always images in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.label_space import LabelSpace
from models.masks import Segment, encode_rle, pack, unpack
from models.painting import Naming, paint
from pipelines.annotation.guard import Book, Row, guarded
from pipelines.cluster import PoolPlan
from pipelines.config.settings import ClipModel, SamModel
from pipelines.errors import UserError
from pipelines.images import ImageOptions, ImageProblem, decode, encode_gray_png
from pipelines.sources import read_image
from pipelines.store.label_schema import ID_LIST, SEGMENT_FIELDS, class_counts

T = TypeVar("T")

_COMMON = [
    ("image_id", pa.string()),
    ("uri", pa.string()),
    ("file", pa.binary()),
    ("sha256", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("status", pa.string()),
    ("error", pa.string()),
]
READ_SCHEMA = pa.schema([*_COMMON, ("pixels", pa.binary())])
"""After reading: `pixels` is the raw uint8 [H, W, 3]; `file` the file's bytes where images are embedded."""
SEGMENTED_SCHEMA = pa.schema([*_COMMON, ("pixels", pa.binary()), ("segments", pa.binary())])
"""After SAM: `segments` as `models.masks.pack` writes them."""
NAMED_SCHEMA = pa.schema(
    [*_COMMON, ("segments", pa.binary()), ("naming", pa.binary()), ("embeddings", pa.binary())]
)
"""After CLIP: the pixels have gone; `naming` is a record array, `embeddings` float16 [K, D]."""

NAMING_DTYPE = np.dtype(
    [
        ("class_id", np.int16),
        ("runner_up_class", np.int16),
        ("score", np.float32),
        ("margin", np.float32),
        ("confidence", np.float32),
        ("named", np.bool_),
    ]
)
_ROW_SEGMENT = pa.struct([*SEGMENT_FIELDS[1:], ("embedding", pa.binary())])
ENCODED_SCHEMA = pa.schema(
    [
        *_COMMON,
        ("label", pa.binary()),
        ("confidence", pa.binary()),
        ("class_ids", ID_LIST),
        ("class_pixels", ID_LIST),
        ("mean_confidence", pa.float32()),
        ("labelled_fraction", pa.float32()),
        ("segments", pa.list_(_ROW_SEGMENT)),
    ]
)
"""Ready to be written: the label set's columns, its segments nested in the image's row."""


class TableStage:
    """A stage as Ray Data calls it: Arrow table in, Arrow table out, guarded by the ledger."""

    def __init__(
        self, name: str, stage: Callable[[list[Row]], list[Row]], book: Book, max_tries: int
    ) -> None:
        self.name, self.stage, self.book, self.max_tries = name, stage, book, max_tries

    def apply(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        """Run the stage on the rows that are ok."""
        rows = guarded(self.name, table.to_pylist(), self.stage, self.book, self.max_tries)
        return pa.Table.from_pylist([{k: row.get(k) for k in schema.names} for row in rows], schema=schema)


def read_table(
    table: pa.Table, options: ImageOptions, embed_images: bool, book: Book, max_tries: int
) -> pa.Table:
    """Manifest rows (image_id, uri, problem) to decoded ones; what cannot be read gets its reason."""

    def work(rows: list[Row]) -> list[Row]:
        return [read_row(row, options, embed_images) for row in rows]

    rows = [{**row, "status": "ok"} for row in table.to_pylist()]
    start = pa.Table.from_pylist(rows)
    return TableStage("read", work, book, max_tries).apply(start, READ_SCHEMA)


def read_row(row: Row, options: ImageOptions, embed_images: bool) -> Row:
    """One image read and decoded, or its reason."""
    common: Row = {"image_id": row["image_id"], "uri": row["uri"], "error": None}
    if row.get("problem"):
        return {**common, "status": "skipped", "error": row["problem"]}
    try:
        data = read_image(row["uri"])
        common["sha256"] = hashlib.sha256(data).hexdigest()
        pixels = decode(data, options)
    except ImageProblem as problem:
        return {**common, "status": problem.status, "error": problem.reason}
    height, width = pixels.shape[:2]
    file = data if embed_images else None
    return {
        **common,
        "status": "ok",
        "width": width,
        "height": height,
        "pixels": pixels.tobytes(),
        "file": file,
    }


def pixels_of(row: Row) -> NDArray[np.uint8]:
    """The decoded image of a row, uint8 [H, W, 3], writable."""
    return np.frombuffer(row["pixels"], np.uint8).reshape(row["height"], row["width"], 3).copy()


def load_or_tell_later(load: Callable[[], T]) -> Callable[[], T]:
    """Load a worker's model now; what it gets raises the reason if that failed.

    An error in an actor's constructor reaches the driver as the news of a dead actor, without its reason; one
    in a call as it is.

    Returns:
        A function that returns the model, or raises UserError where its weights could not be loaded.
    """
    from models.weights import WeightsError

    try:
        model = load()
    except WeightsError as problem:
        told = str(problem)

        def refuse() -> T:
            raise UserError(told)

        return refuse
    return lambda: model


class SegmentImages:
    """SAM over a batch of rows; loads the model once."""

    def __init__(self, config: SamModel, plan: PoolPlan, book: Book, max_tries: int) -> None:
        from models.sam import build_sam

        device = _device(plan)

        def load() -> Any:
            sam, _ = build_sam(config.model, config.weights, sha256=config.sha256)
            return mask_generator(sam.to(device), config)

        self._generator = load_or_tell_later(load)
        self._on_cpu = device == "cpu"
        self._threads = ThreadPoolExecutor(plan.threads, initializer=partial(use_threads, 1))
        self._table = TableStage("sam", self.segment, book, max_tries)

    def __call__(self, table: pa.Table) -> pa.Table:
        """READ_SCHEMA to SEGMENTED_SCHEMA.

        Raises:
            UserError: the weights could not be loaded.
        """
        self._generator()
        return self._table.apply(table, SEGMENTED_SCHEMA)

    def segment(self, rows: list[Row]) -> list[Row]:
        """Add the packed segments.

        On a CPU each image is computed on one core, several side by side: SAM's operations are small, and
        cores that share one wait for each other. No sum depends on the number of threads, either.
        """
        images, generator = [pixels_of(row) for row in rows], self._generator()
        if self._on_cpu:
            found = list(self._threads.map(lambda image: generator.generate([image])[0], images))
        else:
            found = generator.generate(images)
        return [{**row, "segments": pack(segments)} for row, segments in zip(rows, found, strict=True)]


def mask_generator(sam: Any, config: SamModel) -> Any:
    """A `MaskGenerator` with the configuration's options, the model's own where they are null.

    Raises:
        ValueError: options that do not go together.
    """
    from models.sam import SAM_MODELS, MaskGenerator

    options = config.model_dump(
        include={
            "points_per_batch",
            "stability_score_offset",
            "box_nms_thresh",
            "crop_n_layers",
            "crop_nms_thresh",
            "crop_overlap_ratio",
            "crop_n_points_downscale_factor",
            "min_mask_region_area",
        }
    )
    own = SAM_MODELS[config.model]
    for name in ("points_per_side", "pred_iou_thresh", "stability_score_thresh"):
        chosen = getattr(config, name)
        options[name] = getattr(own, name) if chosen is None else chosen
    return MaskGenerator(sam, **options)


@dataclass(frozen=True)
class Words:
    """The text side of naming as plain arrays, computed once a run and sent to every worker.

    Attributes:
        embeddings: float32 [N, D]. class_ids: int64 [N]. logit_scale: CLIP's factor. threshold: of Eq. 2.
    """

    embeddings: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    logit_scale: float
    threshold: float

    @classmethod
    def of(cls, bank: Any, threshold: float) -> Words:
        """From a `models.clip_text.TextBank`."""
        return cls(bank.embeddings.numpy(), bank.class_ids.numpy(), bank.logit_scale, threshold)

    def bank(self, device: str = "cpu") -> Any:
        """As a `models.clip_text.TextBank` on a device."""
        import torch

        from models.clip_text import TextBank

        embeddings = torch.from_numpy(self.embeddings.copy()).to(device)
        return TextBank(embeddings, torch.from_numpy(self.class_ids.copy()).to(device), self.logit_scale)


class NameSegments:
    """GEM-CLIP over a batch of rows: features, pooling (Eq. 1), naming (Eq. 2); loads the model once."""

    def __init__(
        self,
        config: ClipModel,
        words: Words,
        keep_embeddings: bool,
        plan: PoolPlan,
        book: Book,
        max_tries: int,
    ) -> None:
        from models.clip import build_clip

        self._device, self._threads = _device(plan), plan.threads
        self._config, self._threshold, self._keep = config, words.threshold, keep_embeddings
        self._clip = load_or_tell_later(
            lambda: build_clip(config.model, config.weights, sha256=config.sha256, device=self._device)
        )
        self._bank = words.bank(self._device)
        self._table = TableStage("clip", self.name, book, max_tries)

    def __call__(self, table: pa.Table) -> pa.Table:
        """SEGMENTED_SCHEMA to NAMED_SCHEMA.

        Raises:
            UserError: the weights could not be loaded.
        """
        self._clip()
        use_threads(self._threads)
        return self._table.apply(table, NAMED_SCHEMA)

    def name(self, rows: list[Row]) -> list[Row]:
        """Add names and embeddings, drop the pixels."""
        grids = clip_features(self._clip(), self._config, [pixels_of(row) for row in rows])
        return [self._name_one(row, grid) for row, grid in zip(rows, grids, strict=True)]

    def _name_one(self, row: Row, grid: Any) -> Row:
        from models.zero_shot import name_segments, pool_segments

        segments = unpack(row["segments"])
        # Named as they are stored, so that `segray relabel` with the same words gives the same labels.
        pooled = pool_segments(grid, segments, row["height"], row["width"]).half().float()
        naming = name_segments(pooled, self._bank, self._threshold)
        kept = pooled.cpu().numpy().astype(np.float16).tobytes() if self._keep else None
        return {**row, "pixels": None, "naming": naming_bytes(naming), "embeddings": kept}


def clip_features(clip: Any, config: ClipModel, images: list[NDArray[np.uint8]]) -> Any:
    """Dense features [B, h, w, D] of uint8 [H, W, 3] images, with a `models.clip.ClipModel`.

    On a CPU one image at a time, so that none depends on its batch.

    Raises:
        ValueError: options that the model cannot do.
    """
    import torch

    from models.clip import preprocess
    from models.gem import dense_features

    size = config.image_size or clip.image_size
    step = 1 if clip.device.type == "cpu" else len(images)
    options = config.model_dump(include={"features", "iterations", "temperature"})
    options["depth"] = config.depth or clip.depth
    with torch.inference_mode():
        batches = (
            preprocess(images[start : start + step], size, clip.mean, clip.std).to(clip.device)
            for start in range(0, len(images), step)
        )
        return torch.cat([dense_features(clip.model.visual, batch, **options) for batch in batches])


def naming_bytes(naming: Naming) -> bytes:
    """A `Naming` as the bytes of a NAMING_DTYPE array."""
    table = np.zeros(len(naming.class_id), NAMING_DTYPE)
    for field in NAMING_DTYPE.names or ():
        table[field] = getattr(naming, field)
    return table.tobytes()


def naming_from_bytes(data: bytes) -> Naming:
    """The inverse of `naming_bytes`."""
    table = np.frombuffer(data, NAMING_DTYPE)
    return Naming(**{field: table[field] for field in NAMING_DTYPE.names or ()})


def encode_table(table: pa.Table, space: LabelSpace, book: Book, max_tries: int) -> pa.Table:
    """NAMED_SCHEMA to ENCODED_SCHEMA: paint, PNG, RLE."""

    def work(rows: list[Row]) -> list[Row]:
        return [encode_row(row, space) for row in rows]

    return TableStage("encode", work, book, max_tries).apply(table, ENCODED_SCHEMA)


def encode_row(row: Row, space: LabelSpace) -> Row:
    """One named image's columns of the label set."""
    segments, naming = unpack(row["segments"]), naming_from_bytes(row["naming"])
    found = encode_segments(
        segments, naming, row["embeddings"], row["height"], row["width"], space.ignore_index
    )
    return {**row, **found}


def encode_segments(
    segments: list[Segment],
    naming: Naming,
    embeddings: bytes | None,
    height: int,
    width: int,
    ignore_index: int,
) -> Row:
    """Named segments as label map and confidence (PNG), their counts, and the segments as rows."""
    label, confidence = paint(segments, naming, height, width)
    painted = confidence[covered(segments, naming, height, width)]
    ids, pixels = class_counts(label, ignore_index)
    return {
        "label": encode_gray_png(label),
        "confidence": encode_gray_png(confidence),
        "class_ids": ids,
        "class_pixels": pixels,
        "mean_confidence": float(painted.mean()) / 255 if painted.size else 0.0,
        "labelled_fraction": painted.size / label.size,
        "segments": segment_rows(segments, naming, embeddings, height, width),
    }


def covered(segments: list[Segment], naming: Naming, height: int, width: int) -> NDArray[np.bool_]:
    """bool [H, W]: pixels under at least one segment that got a name."""
    mask = np.zeros((height, width), bool)
    for segment, named in zip(segments, naming.named, strict=True):
        if named:
            x, y, w, h = segment.box
            mask[y : y + h, x : x + w] |= segment.mask
    return mask


def segment_rows(
    segments: list[Segment], naming: Naming, embeddings: bytes | None, height: int, width: int
) -> list[Row]:
    """The segments table's rows of one image, without its image_id; embeddings as float16 bytes."""
    size = len(embeddings) // len(segments) if embeddings and segments else 0
    rows = []
    for k, segment in enumerate(segments):
        rle_size, counts = encode_rle(segment, height, width)
        rows.append(
            {
                "segment_id": k,
                "bbox": [float(v) for v in segment.box],
                "area": segment.area,
                "class_id": int(naming.class_id[k]),
                "score": float(naming.score[k]),
                "margin": float(naming.margin[k]),
                "runner_up_class": int(naming.runner_up_class[k]),
                "predicted_iou": segment.predicted_iou,
                "stability_score": segment.stability_score,
                "rle": {"size": rle_size, "counts": counts},
                "embedding": embeddings[k * size : (k + 1) * size] if embeddings and size else None,
            }
        )
    return rows


def _device(plan: PoolPlan) -> str:
    import torch

    return "cuda" if plan.num_gpus > 0 and torch.cuda.is_available() else "cpu"


def use_threads(count: int) -> None:
    """Let this thread compute on `count` cores.

    Ray makes an actor in one thread and calls it in another, and OpenMP keeps the number by thread: what is
    set in the constructor leaves the calls on one core, though torch reports the number that was asked for.
    """
    import torch

    torch.set_num_threads(count)
