"""Segment: SAM turns images into segments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from segray.models.masks import Segment, pack
from segray.pipelines.annotation.stages.base import Stage
from segray.pipelines.annotation.stages.loading import device_of, load_or_defer_error
from segray.pipelines.annotation.stages.schemas import SEGMENTED_SCHEMA, pixels_of
from segray.pipelines.config.commands.annotate import SamModel
from segray.pipelines.engine.compiling import compiling
from segray.pipelines.engine.cpu import reuse_freed_memory, use_threads
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row

if TYPE_CHECKING:  # torch and segment_anything take seconds to import
    from segment_anything.modeling import Sam

    from segray.models.sam.generator import MaskGenerator

_OPTIONS = {
    "points_per_batch",
    "stability_score_offset",
    "box_nms_thresh",
    "crop_n_layers",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "crop_n_points_downscale_factor",
    "min_mask_region_area",
}


class SegmentImages(Stage):
    """SAM over a batch of images.

    Args:
        config: the model and its options.
        plan: of its workers.
        guard: of the run.
        loaded: the model, if it is loaded already.
    """

    name, schema = "sam", SEGMENTED_SCHEMA

    def __init__(self, config: SamModel, plan: PoolPlan, guard: Guard, loaded: Sam | None = None) -> None:
        super().__init__(guard)
        device = device_of(plan)
        if device == "cpu":
            reuse_freed_memory()
        self._generator = load_or_defer_error(partial(_load, config, device, loaded))
        one_core = partial(use_threads, 1)
        self._threads = ThreadPoolExecutor(plan.threads, initializer=one_core) if device == "cpu" else None

    def __call__(self, table: pa.Table) -> pa.Table:
        """READ_SCHEMA to SEGMENTED_SCHEMA.

        Raises:
            UserError: the weights could not be loaded.
        """
        self.model()
        return super().__call__(table)

    def model(self) -> MaskGenerator:
        """The worker's model.

        Raises:
            UserError: the weights could not be loaded.
        """
        return self._generator()

    def process(self, rows: list[Row]) -> list[Row]:
        """Add the packed segments."""
        segments = self.segments(rows)
        return [{**row, "packed_segments": pack(s)} for row, s in zip(rows, segments, strict=True)]

    def segments(self, rows: list[Row]) -> list[list[Segment]]:
        """The segments of each image.

        On a CPU each image is computed on one core, several side by side: SAM's operations are small, and
        cores that share one wait for each other. No sum depends on the number of threads, either.
        """
        images, generator = [pixels_of(row) for row in rows], self.model()
        sizes = [(row["height"], row["width"]) for row in rows]
        if self._threads:
            single = self._threads.map(lambda image, size: generator.generate([image], [size]), images, sizes)
            return [batch[0] for batch in single]
        return generator.generate(images, sizes)


def _load(config: SamModel, device: str, loaded: Sam | None) -> MaskGenerator:
    from segray.models.sam.generator import build_sam

    sam = loaded or build_sam(config.model, config.weights, sha256=config.sha256)[0]
    generator = mask_generator(sam.to(device), config)
    if config.compile:
        # `torch.compile` fails in the first call: a failure of the compiler is not a failure of an image.
        with compiling("sam.compile"):
            generator.generate([np.zeros((8, 8, 3), np.uint8)])
    return generator


def mask_generator(sam: Sam, config: SamModel) -> MaskGenerator:
    """A `MaskGenerator` with the configuration's options; null options take the model's defaults.

    Raises:
        ValueError: options that contradict each other.
    """
    from segray.models.precision import resolve_precision
    from segray.models.sam.generator import MaskGenerator

    options = config.model_dump(include=_OPTIONS)
    options["precision"] = resolve_precision(config.precision, sam.device.type)
    options["compiled"] = config.compile
    for name in ("points_per_side", "pred_iou_thresh", "stability_score_thresh"):
        options[name] = _or_default(config, name)
    return MaskGenerator(sam, **options)


def check_sam_options(config: SamModel) -> None:
    """Raise what `mask_generator` would raise.

    Raises:
        ValueError: options that contradict each other.
    """
    from segray.models.sam.generator import grid_sides

    side = _or_default(config, "points_per_side")
    grid_sides(side, config.crop_n_layers, config.crop_n_points_downscale_factor)


def _or_default(config: SamModel, name: str) -> Any:
    """The value of an option, or the default of the model."""
    from segray.models.sam.registry import SAM_MODELS

    chosen = getattr(config, name)
    return getattr(SAM_MODELS[config.model], name) if chosen is None else chosen
