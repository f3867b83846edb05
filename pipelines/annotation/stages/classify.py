"""Classify: GEM-CLIP gives each segment a class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.models.label_map import SegmentClasses, split
from segray.models.masks import Segment, unpack
from segray.pipelines.annotation.stages.base import Stage
from segray.pipelines.annotation.stages.loading import device_of, load_or_defer_error
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


@dataclass(frozen=True)
class TextEmbeddings:
    """The class names as CLIP embeds them: plain arrays, computed once per run and sent to every worker.

    Attributes:
        embeddings: float32 [N, D], one row per name.
        class_ids: int64 [N], the class of each name.
        logit_scale: CLIP's factor on cosines.
        threshold: of Eq. 2, a cosine.
    """

    embeddings: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    logit_scale: float
    threshold: float

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

        embeddings = torch.from_numpy(self.embeddings.copy()).to(device)
        return ZeroShotClassifier(
            embeddings, torch.from_numpy(self.class_ids.copy()).to(device), self.logit_scale
        )


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
    ) -> None:
        super().__init__(guard)
        device, self._threads = device_of(plan), plan.threads
        if device == "cpu":
            reuse_freed_memory()
        self._config, self._threshold, self._keep = config, text.threshold, keep_embeddings
        self._clip = load_or_defer_error(partial(_load, config, device, loaded))
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
        grids = clip_features(self.model(), self._config, [pixels_of(row) for row in rows])
        segments = [of_row for of_row in map(_segments, rows) if of_row is not None]
        if not segments:
            return [self._classify_pixels(row, grid) for row, grid in zip(rows, grids, strict=True)]
        pooled = [self._pooled(*parts) for parts in zip(grids, segments, rows, strict=True)]
        classified = chain.from_iterable(map(self._classify_segments, self._batches(pooled)))
        return [
            {**row, "classes": classes_to_bytes(classes), "embeddings": embeddings}
            for row, (classes, embeddings) in zip(rows, classified, strict=True)
        ]

    def _batches(self, pooled: list[Tensor]) -> list[list[Tensor]]:
        """On a CPU one image at a time, as `clip_features`; a GPU waits once per batch."""
        return [[image] for image in pooled] if self.model().device.type == "cpu" else [pooled]

    def _classify_pixels(self, row: Row, grid: Tensor) -> Row:
        from segray.models.clip.zero_shot import dense_labels

        label, confidence = dense_labels(grid, self._classifier, row["height"], row["width"], self._threshold)
        return {**row, "label": label.tobytes(), "confidence": confidence.tobytes()}

    def _pooled(self, grid: Tensor, segments: list[Segment], row: Row) -> Tensor:
        from segray.models.clip.zero_shot import pool_segments

        # In the precision that is stored, so that `segray relabel` with the same names gives the same labels.
        return pool_segments(grid, segments, row["height"], row["width"]).half().float()

    def _classify_segments(self, pooled: list[Tensor]) -> list[tuple[SegmentClasses, bytes | None]]:
        """The classes of each image's segments, and their embeddings if these are stored."""
        import torch

        from segray.models.clip.zero_shot import classify_segments

        counts, together = [len(image) for image in pooled], torch.cat(pooled)
        classes = split(classify_segments(together, self._classifier, self._threshold), counts)
        if not self._keep:
            return [(of_image, None) for of_image in classes]
        stored = np.split(together.cpu().numpy().astype(np.float16), np.cumsum(counts)[:-1])
        return [(of_image, part.tobytes()) for of_image, part in zip(classes, stored, strict=True)]


def _segments(row: Row) -> list[Segment] | None:
    """The row's segments; None in runs without SAM."""
    packed = row.get("packed_segments")
    return row.get("unpacked_segments") if packed is None else unpack(packed)


def _load(config: ClipModelConfig, device: str, loaded: ClipModel | None) -> ClipModel:
    from segray.models.clip.model import build_clip, move
    from segray.models.precision import resolve_precision

    clip = loaded or build_clip(config.model, config.weights, sha256=config.sha256)
    return move(clip, device, resolve_precision(config.precision, device))


def check_clip_options(clip: ClipModel, config: ClipModelConfig) -> None:
    """Raise what `clip_features` would raise; nothing is computed.

    Raises:
        ValueError: options that the model does not support.
    """
    from segray.models.clip.gem import check_features

    size = config.image_size or clip.image_size
    check_features(clip.model.visual, (size, size), **_feature_options(clip, config))


def clip_features(clip: ClipModel, config: ClipModelConfig, images: list[NDArray[np.uint8]]) -> Tensor:
    """Dense features [B, h, w, D] of B images, each uint8 RGB [H, W, 3].

    On a CPU one image at a time, so that no image's features depend on its batch.

    Raises:
        ValueError: options that the model does not support.
    """
    import torch

    from segray.models.clip.gem import dense_features
    from segray.models.clip.model import preprocess

    size = config.image_size or clip.image_size
    step = 1 if clip.device.type == "cpu" else len(images)
    options = _feature_options(clip, config)
    with torch.inference_mode():
        batches = (
            preprocess(images[start : start + step], size, clip.mean, clip.std, clip.device)
            for start in range(0, len(images), step)
        )
        return torch.cat([dense_features(clip.model.visual, batch, **options) for batch in batches])


def _feature_options(clip: ClipModel, config: ClipModelConfig) -> dict[str, Any]:
    options = config.model_dump(include={"features", "iterations", "temperature"})
    return {**options, "depth": config.depth or clip.depth}
