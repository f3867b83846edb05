"""Segment: a source of masks (SAM by default) turns images into segments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from segray.models.masks import Segment, pack
from segray.models.seams import TiledMasks
from segray.models.tiling import Tiling
from segray.pipelines.annotation.stages.base import Stage
from segray.pipelines.annotation.stages.loading import device_of, load_or_defer_error
from segray.pipelines.annotation.stages.schemas import SEGMENTED_SCHEMA, pixels_of
from segray.pipelines.config.commands.annotate import SamModel
from segray.pipelines.engine.compiling import compiling
from segray.pipelines.engine.cpu import reuse_freed_memory, use_threads
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row

if TYPE_CHECKING:  # torch takes seconds to import
    from segray.models.annotators.protocols import MaskModel, MaskSource

_NOT_OPTIONS = frozenset({"model", "weights", "sha256", "precision"})


class SegmentImages(Stage):
    """A source of masks over a batch of images.

    Args:
        config: the model and its options.
        plan: of its workers.
        guard: of the run.
        loaded: the model, if it is loaded already.
        tiling: of large images; None: each image in one piece.
    """

    name, schema = "sam", SEGMENTED_SCHEMA

    def __init__(
        self,
        config: SamModel,
        plan: PoolPlan,
        guard: Guard,
        loaded: MaskModel | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        super().__init__(guard)
        device = device_of(plan)
        if device == "cpu":
            reuse_freed_memory()
        self._source = load_or_defer_error(partial(_load, config, device, loaded, tiling))
        one_core = partial(use_threads, 1)
        self._threads = ThreadPoolExecutor(plan.threads, initializer=one_core) if device == "cpu" else None

    def __call__(self, table: pa.Table) -> pa.Table:
        """READ_SCHEMA to SEGMENTED_SCHEMA.

        Raises:
            UserError: the weights could not be loaded.
        """
        self.model()
        return super().__call__(table)

    def model(self) -> MaskSource:
        """The worker's model.

        Raises:
            UserError: the weights could not be loaded.
        """
        return self._source()

    def process(self, rows: list[Row]) -> list[Row]:
        """Add the packed segments."""
        segments = self.segments(rows)
        return [{**row, "packed_segments": pack(s)} for row, s in zip(rows, segments, strict=True)]

    def segments(self, rows: list[Row]) -> list[list[Segment]]:
        """The segments of each image.

        On a CPU each image is computed on one core, several side by side: SAM's operations are small, and
        cores that share one wait for each other. No sum depends on the number of threads, either.
        """
        images, source = [pixels_of(row) for row in rows], self.model()
        sizes = [(row["height"], row["width"]) for row in rows]
        if self._threads:
            single = self._threads.map(lambda image, size: source.generate([image], [size]), images, sizes)
            return [batch[0] for batch in single]
        return source.generate(images, sizes)


def _load(config: SamModel, device: str, loaded: MaskModel | None, tiling: Tiling | None) -> MaskSource:
    from segray.models.annotators.loading import open_model

    model = loaded or open_model(config.model, config.weights, sha256=config.sha256)[0]
    source = model.source(device, mask_options(config, device))
    if config.compile:
        # `torch.compile` fails in the first call: a failure of the compiler is not a failure of an image.
        with compiling("sam.compile"):
            source.generate([np.zeros((8, 8, 3), np.uint8)])
    return TiledMasks(source, tiling) if tiling else source


def mask_options(config: SamModel, device: str = "cpu") -> dict[str, Any]:
    """The options of the model's family; null options take the model's defaults.

    Args:
        config: the model and its options.
        device: that `precision=auto` is for.
    """
    from segray.models.annotators.registry import mask_entry
    from segray.models.precision import resolve_precision

    entry = mask_entry(config.model)
    values = config.model_dump(include=set(entry.open_family().options))
    for name, value in values.items():
        if value is None:
            values[name] = getattr(entry, name, None)
    return {**values, "precision": resolve_precision(config.precision, device)}


def check_sam_options(config: SamModel) -> None:
    """Refuse options that contradict each other, or that the model would ignore.

    Raises:
        ValueError: which.
    """
    from segray.models.annotators.registry import mask_entry

    family = mask_entry(config.model).open_family()
    fields = SamModel.model_fields
    for name in fields.keys() - _NOT_OPTIONS - family.options:
        if getattr(config, name) != fields[name].default:
            raise ValueError(f"sam.{name} has no effect with sam.model={config.model}; leave it out")
    family.check_options(mask_options(config))
