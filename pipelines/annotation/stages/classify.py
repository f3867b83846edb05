"""Classify: GEM-CLIP gives each segment a class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain, starmap
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.models.label_map import SegmentClasses, split
from segray.models.masks import Segment, unpack
from segray.models.tiling import Tiling
from segray.pipelines.annotation.stages.base import Stage
from segray.pipelines.annotation.stages.features import Image, load_clip, tile_features
from segray.pipelines.annotation.stages.loading import device_of, load_or_defer_error
from segray.pipelines.annotation.stages.raw_columns import raw
from segray.pipelines.annotation.stages.schemas import CLASSIFIED_SCHEMA, classes_to_bytes, pixels_of
from segray.pipelines.config.commands.annotate import ClipModel as ClipModelConfig
from segray.pipelines.engine.cpu import reuse_freed_memory, use_threads
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row

if TYPE_CHECKING:  # torch and open_clip take seconds to import
    from torch import Tensor

    from segray.models.clip.model import ClipModel
    from segray.models.clip.text import ZeroShotClassifier
    from segray.models.clip.tiled import TileFeatures
    from segray.models.clip.zero_shot import PixelClasses


T = TypeVar("T")


@dataclass(frozen=True)
class TextEmbeddings:
    """The class names as CLIP embeds them: plain arrays, computed once per run and sent to every worker.

    Attributes:
        embeddings: float32 [N, D], one row per name.
        class_ids: int64 [N], the class of each name.
        logit_scale: CLIP's factor on cosines.
        threshold: of Eq. 2, a cosine.
        vote: a segment gets the class that most of its pixels have.
        unsegmented: pixels in no segment get a class of their own.
        bias: float32 [N], see `ZeroShotClassifier`; None: no mask has taught anything.
        refine: steps by which pixels' classes follow the image's edges; 0: none.
    """

    embeddings: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    logit_scale: float
    threshold: float
    vote: bool = False
    unsegmented: bool = False
    bias: NDArray[np.float32] | None = None
    refine: int = 0

    @classmethod
    def from_classifier(cls, classifier: ZeroShotClassifier, threshold: float) -> TextEmbeddings:
        """The arrays of a classifier."""
        return cls(
            classifier.embeddings.numpy(), classifier.class_ids.numpy(), classifier.logit_scale, threshold
        )

    def to_classifier(self, device: str = "cpu") -> ZeroShotClassifier:
        """The classifier on a device."""
        import torch

        from segray.models.clip.text import ZeroShotClassifier

        embeddings, class_ids = (
            torch.from_numpy(array.copy()).to(device) for array in (self.embeddings, self.class_ids)
        )
        bias = None if self.bias is None else torch.from_numpy(self.bias.copy()).to(device)
        return ZeroShotClassifier(embeddings, class_ids, self.logit_scale, bias)


class ClassifySegments(Stage):
    """GEM-CLIP over a batch of images: features, pooling (Eq. 1), classes (Eq. 2).

    Where there are no segments, each pixel is classified by itself.

    Args:
        config: the model and its options.
        text: the class names.
        keep_embeddings: store the embeddings of segments.
        plan: of its workers.
        guard: of the run.
        loaded: the model, if it is loaded already.
        tiling: of large images; None: each image in one piece.
    """

    name, schema = "clip", CLASSIFIED_SCHEMA

    def __init__(
        self,
        config: ClipModelConfig,
        text: TextEmbeddings,
        keep_embeddings: bool,
        plan: PoolPlan,
        guard: Guard,
        loaded: ClipModel | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        super().__init__(guard)
        self._tiling = tiling
        device, self._threads = device_of(plan), plan.threads
        if device == "cpu":
            reuse_freed_memory()
        self._config, self._text, self._keep = config, text, keep_embeddings
        self._clip = load_or_defer_error(partial(load_clip, config, device, loaded))
        self._classifier = text.to_classifier(device)

    def __call__(self, table: pa.Table) -> pa.Table:
        """SEGMENTED_SCHEMA to CLASSIFIED_SCHEMA, or READ_SCHEMA to it in runs without SAM.

        Raises:
            UserError: the weights could not be loaded.
        """
        self.model()
        use_threads(self._threads)
        return super().__call__(table)

    def model(self) -> ClipModel:
        """The worker's model.

        Raises:
            UserError: the weights could not be loaded.
        """
        return self._clip()

    def process(self, rows: list[Row]) -> list[Row]:
        """Add classes and embeddings."""
        segments = [of_row for of_row in map(_segments, rows) if of_row is not None]
        images = [pixels_of(row) for row in rows]
        sizes = [(row["height"], row["width"]) for row in rows]
        grids = tile_features(self.model(), self._config, self._tiling, images, segments or None, sizes)
        if not segments:
            parts = zip(rows, grids, images, strict=True)
            return [_with_pixels(row, self._pixels(row, grid, image)) for row, grid, image in parts]
        pooled = [self._pooled(*parts) for parts in zip(grids, segments, strict=True)]
        by_pixel = [self._by_pixel(*parts) for parts in zip(rows, grids, images, segments, strict=True)]
        elected = [of_image for _, of_image in by_pixel]
        batches = zip(self._batches(pooled), self._batches(elected), strict=True)
        classified = chain.from_iterable(starmap(self._classify_segments, batches))
        return [
            {**row, "classes": classes_to_bytes(classes), "embeddings": embeddings}
            for (row, _), (classes, embeddings) in zip(by_pixel, classified, strict=True)
        ]

    def _by_pixel(
        self, row: Row, tiles: list[TileFeatures], image: Image, segments: list[Segment]
    ) -> tuple[Row, NDArray[np.int64]]:
        """The row with its pixels' classes, and its segments' by vote, where the run uses them."""
        from segray.models.clip.zero_shot import vote

        none, text = np.zeros(0, np.int64), self._text
        if not (text.vote or text.unsegmented):
            return row, none
        pixels = self._pixels(row, tiles, image)
        elected = vote(segments, pixels.best) if text.vote else none
        return _with_pixels(row, pixels) if text.unsegmented else row, elected

    def _batches(self, images: list[T]) -> list[list[T]]:
        """On a CPU one image at a time, as `clip_features`; a GPU waits once per batch."""
        return [[image] for image in images] if self.model().device.type == "cpu" else [images]

    def _pixels(self, row: Row, tiles: list[TileFeatures], image: Image) -> PixelClasses:
        from segray.models.clip.tiled import label_tiles

        size, text = (row["height"], row["width"]), self._text
        return label_tiles(tiles, self._classifier, size, text.threshold, image, text.refine)

    def _pooled(self, tiles: list[TileFeatures], segments: list[Segment]) -> Tensor:
        from segray.models.clip.tiled import pool_tiles

        # In the precision that is stored, so that `segray relabel` with the same names gives the same labels.
        return pool_tiles(tiles, segments).half().float()

    def _classify_segments(
        self, pooled: list[Tensor], elected: list[NDArray[np.int64]]
    ) -> list[tuple[SegmentClasses, bytes | None]]:
        """The classes of each image's segments, and their embeddings if these are stored."""
        import torch

        from segray.models.clip.zero_shot import classify_segments

        counts, together = [len(image) for image in pooled], torch.cat(pooled)
        votes = np.concatenate(elected) if self._text.vote else None
        classes = split(classify_segments(together, self._classifier, self._text.threshold, votes), counts)
        if not self._keep:
            return [(of_image, None) for of_image in classes]
        stored = np.split(together.cpu().numpy().astype(np.float16), np.cumsum(counts)[:-1])
        return [(of_image, part.tobytes()) for of_image, part in zip(classes, stored, strict=True)]


def _with_pixels(row: Row, pixels: PixelClasses) -> Row:
    return {**row, "label": raw(pixels.label), "confidence": raw(pixels.confidence)}


def _segments(row: Row) -> list[Segment] | None:
    """The row's segments; None in runs without SAM."""
    packed = row.get("packed_segments")
    return row.get("unpacked_segments") if packed is None else unpack(packed)
