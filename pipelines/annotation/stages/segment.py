"""The stages of annotation that hold a model: segment (SAM) and name (GEM-CLIP), each an actor's class."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.models.masks import pack, unpack
from segray.pipelines.annotation.stages.encode import (
    CLASSIFIED_SCHEMA,
    SEGMENTED_SCHEMA,
    TableStage,
    classes_to_bytes,
    pixels_of,
)
from segray.pipelines.config.commands.annotate import ClipModel, SamModel
from segray.pipelines.engine.compiling import CannotCompileError, compiling
from segray.pipelines.engine.cpu import reuse_freed_memory, use_threads
from segray.pipelines.engine.guard import Book, Row
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.errors import UserError

T = TypeVar("T")


def load_or_defer_error(load: Callable[[], T]) -> Callable[[], T]:
    """Load a worker's model now; what it gets raises the reason if that failed.

    An error in an actor's constructor reaches the driver as the news of a dead actor, without its reason; one
    in a call as it is.

    Returns:
        A function that returns the model, or raises UserError where it could not be loaded or compiled.
    """
    from segray.models.weights import WeightsError

    try:
        model = load()
    except (WeightsError, CannotCompileError) as problem:
        told = str(problem)

        def refuse() -> T:
            raise UserError(told)

        return refuse
    return lambda: model


class SegmentImages:
    """SAM over a batch of rows; loads the model once."""

    def __init__(self, config: SamModel, plan: PoolPlan, book: Book, max_tries: int) -> None:
        from segray.models.sam.generator import build_sam

        device = _device(plan)
        if device == "cpu":
            reuse_freed_memory()

        def load() -> Any:
            sam, _ = build_sam(config.model, config.weights, sha256=config.sha256)
            return _compiled(mask_generator(sam.to(device), config), config)

        self._generator = load_or_defer_error(load)
        one_core = partial(use_threads, 1)
        self._threads = ThreadPoolExecutor(plan.threads, initializer=one_core) if device == "cpu" else None
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
        sizes = [(row["height"], row["width"]) for row in rows]
        if self._threads:
            found = list(
                self._threads.map(lambda *one: generator.generate(*([x] for x in one))[0], images, sizes)
            )
        else:
            found = generator.generate(images, sizes)
        return [{**row, "segments": pack(segments)} for row, segments in zip(rows, found, strict=True)]


def mask_generator(sam: Any, config: SamModel) -> Any:
    """A `MaskGenerator` with the configuration's options, the model's own where they are null.

    Raises:
        ValueError: options that do not go together.
    """
    from segray.models.sam.generator import SAM_MODELS, MaskGenerator

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
            "precision",
        }
    )
    options["compiled"] = config.compile
    own = SAM_MODELS[config.model]
    for name in ("points_per_side", "pred_iou_thresh", "stability_score_thresh"):
        chosen = getattr(config, name)
        options[name] = getattr(own, name) if chosen is None else chosen
    return MaskGenerator(sam, **options)


def _compiled(generator: Any, config: SamModel) -> Any:
    """The generator after its first picture: a failure of the compiler is not one of an image."""
    if config.compile:
        with compiling("sam.compile"):
            generator.generate([np.zeros((8, 8, 3), np.uint8)])
    return generator


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
        """From a `models.clip.text.TextBank`."""
        return cls(bank.embeddings.numpy(), bank.class_ids.numpy(), bank.logit_scale, threshold)

    def bank(self, device: str = "cpu") -> Any:
        """As a `models.clip.text.TextBank` on a device."""
        import torch

        from segray.models.clip.text import TextBank

        embeddings = torch.from_numpy(self.embeddings.copy()).to(device)
        return TextBank(embeddings, torch.from_numpy(self.class_ids.copy()).to(device), self.logit_scale)


class ClassifySegments:
    """GEM-CLIP over a batch of rows: features, pooling (Eq. 1), naming (Eq. 2); loads the model once.

    Rows without segments are named pixel by pixel.
    """

    def __init__(
        self,
        config: ClipModel,
        words: Words,
        keep_embeddings: bool,
        plan: PoolPlan,
        book: Book,
        max_tries: int,
    ) -> None:
        from segray.models.clip.model import build_clip

        self._device, self._threads = _device(plan), plan.threads
        if self._device == "cpu":
            reuse_freed_memory()
        self._config, self._threshold, self._keep = config, words.threshold, keep_embeddings
        self._clip = load_or_defer_error(
            lambda: build_clip(
                config.model,
                config.weights,
                sha256=config.sha256,
                device=self._device,
                precision=config.precision,
            )
        )
        self._bank = words.bank(self._device)
        self._table = TableStage("clip", self.name, book, max_tries)

    def __call__(self, table: pa.Table) -> pa.Table:
        """SEGMENTED_SCHEMA to CLASSIFIED_SCHEMA, or READ_SCHEMA to it where no SAM runs.

        Raises:
            UserError: the weights could not be loaded.
        """
        self._clip()
        use_threads(self._threads)
        return self._table.apply(table, CLASSIFIED_SCHEMA)

    def name(self, rows: list[Row]) -> list[Row]:
        """Add names and embeddings, drop the pixels."""
        grids = clip_features(self._clip(), self._config, [pixels_of(row) for row in rows])
        return [self._name_one(row, grid) for row, grid in zip(rows, grids, strict=True)]

    def _name_one(self, row: Row, grid: Any) -> Row:
        from segray.models.clip.zero_shot import classify_segments, dense_labels, pool_segments

        if row.get("segments") is None:
            maps = dense_labels(grid, self._bank, row["height"], row["width"], self._threshold)
            label, confidence = (values.tobytes() for values in maps)
            return {**row, "pixels": None, "label": label, "confidence": confidence}
        segments = unpack(row["segments"])
        # Named as they are stored, so that `segray relabel` with the same words gives the same labels.
        pooled = pool_segments(grid, segments, row["height"], row["width"]).half().float()
        naming = classify_segments(pooled, self._bank, self._threshold)
        kept = pooled.cpu().numpy().astype(np.float16).tobytes() if self._keep else None
        return {**row, "pixels": None, "naming": classes_to_bytes(naming), "embeddings": kept}


def clip_features(clip: Any, config: ClipModel, images: list[NDArray[np.uint8]]) -> Any:
    """Dense features [B, h, w, D] of uint8 [H, W, 3] images, with a `models.clip.model.ClipModel`.

    On a CPU one image at a time, so that none depends on its batch.

    Raises:
        ValueError: options that the model cannot do.
    """
    import torch

    from segray.models.clip.gem import dense_features
    from segray.models.clip.model import preprocess
    from segray.models.transfer import to_device

    size = config.image_size or clip.image_size
    step = 1 if clip.device.type == "cpu" else len(images)
    options = config.model_dump(include={"features", "iterations", "temperature"})
    options["depth"] = config.depth or clip.depth
    with torch.inference_mode():
        batches = (
            to_device(preprocess(images[start : start + step], size, clip.mean, clip.std), clip.device)
            for start in range(0, len(images), step)
        )
        return torch.cat([dense_features(clip.model.visual, batch, **options) for batch in batches])


def _device(plan: PoolPlan) -> str:
    import torch

    return "cuda" if plan.num_gpus > 0 and torch.cuda.is_available() else "cpu"
