"""Classify: GEM-CLIP gives each segment a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, starmap
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.models.label_map import SegmentClasses, split
from segray.models.masks import Segment, unpack
from segray.pipelines.annotation.stages.base import Stage
from segray.pipelines.annotation.stages.loading import device_of, load_or_defer_error
from segray.pipelines.annotation.stages.schemas import CLASSIFIED_SCHEMA, classes_to_bytes, pixels_of
from segray.pipelines.config.commands.annotate import DEFAULT_PROXY, PROXIES
from segray.pipelines.config.commands.annotate import ClipModel as ClipModelConfig
from segray.pipelines.engine.cpu import reuse_freed_memory, use_threads
from segray.pipelines.engine.guard import Guard
from segray.pipelines.engine.pools import PoolPlan
from segray.pipelines.engine.rows import Row

if TYPE_CHECKING:  # torch and open_clip take seconds to import
    from torch import Tensor

    from segray.models.clip.model import ClipModel
    from segray.models.clip.text import ZeroShotClassifier


T = TypeVar("T")

_ANY = -1.0
"""A threshold that every cosine but the least possible is above."""


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
    """

    embeddings: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    logit_scale: float
    threshold: float
    vote: bool = False
    unsegmented: bool = False

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
        self._config, self._text, self._keep = config, text, keep_embeddings
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
        segments = [of_row for of_row in map(_segments, rows) if of_row is not None]
        grids = self._features(rows, segments)
        if not segments:
            return [self._classify_pixels(row, grid) for row, grid in zip(rows, grids, strict=True)]
        pooled = [self._pooled(*parts) for parts in zip(grids, segments, rows, strict=True)]
        elected = [self._elected(*parts) for parts in zip(grids, segments, rows, strict=True)]
        batches = zip(self._batches(pooled), self._batches(elected), strict=True)
        classified = chain.from_iterable(starmap(self._classify_segments, batches))
        if self._text.unsegmented:
            rows = [self._classify_pixels(row, grid) for row, grid in zip(rows, grids, strict=True)]
        return [
            {**row, "classes": classes_to_bytes(classes), "embeddings": embeddings}
            for row, (classes, embeddings) in zip(rows, classified, strict=True)
        ]

    def _elected(self, grid: Tensor, segments: list[Segment], row: Row) -> NDArray[np.int64]:
        """The class of each segment by vote; nothing where segments are pooled alone."""
        from segray.models.clip.zero_shot import dense_labels, vote

        if not self._text.vote:
            return np.zeros(0, np.int64)
        best, _ = dense_labels(grid, self._classifier, row["height"], row["width"], _ANY)
        return vote(segments, best)

    def _features(self, rows: list[Row], segments: list[list[Segment]]) -> Sequence[Tensor]:
        """The grid of each image."""
        images = [pixels_of(row) for row in rows]
        sizes = [(row["height"], row["width"]) for row in rows]
        return clip_features(self.model(), self._config, images, segments or None, sizes)

    def _batches(self, images: list[T]) -> list[list[T]]:
        """On a CPU one image at a time, as `clip_features`; a GPU waits once per batch."""
        return [[image] for image in images] if self.model().device.type == "cpu" else [images]

    def _classify_pixels(self, row: Row, grid: Tensor) -> Row:
        from segray.models.clip.zero_shot import dense_labels

        shape, threshold = (row["height"], row["width"]), self._text.threshold
        label, confidence = dense_labels(grid, self._classifier, *shape, threshold)
        return {**row, "label": label.tobytes(), "confidence": confidence.tobytes()}

    def _pooled(self, grid: Tensor, segments: list[Segment], row: Row) -> Tensor:
        from segray.models.clip.zero_shot import pool_segments

        # In the precision that is stored, so that `segray relabel` with the same names gives the same labels.
        return pool_segments(grid, segments, row["height"], row["width"]).half().float()

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


def _segments(row: Row) -> list[Segment] | None:
    """The row's segments; None in runs without SAM."""
    packed = row.get("packed_segments")
    return row.get("unpacked_segments") if packed is None else unpack(packed)


def _load(config: ClipModelConfig, device: str, loaded: ClipModel | None) -> ClipModel:
    from segray.models.clip.model import build_clip, move
    from segray.models.precision import resolve_precision

    clip = loaded or with_proxy(build_clip(config.model, config.weights, sha256=config.sha256), config)
    return move(clip, device, resolve_precision(config.precision, device))


def with_proxy(clip: ClipModel, config: ClipModelConfig) -> ClipModel:
    """The CLIP with the other vision model that its features need, if they need one.

    Raises:
        ValueError: an unknown model, or weights that cannot be had or do not fit.
    """
    if config.features not in PROXIES:
        return clip
    from segray.models.clip.vision import open_proxy

    name = config.proxy or DEFAULT_PROXY
    return replace(clip, proxy=open_proxy(name, config.proxy_weights, config.proxy_sha256))


def check_clip_options(clip: ClipModel, config: ClipModelConfig) -> None:
    """Raise what `clip_features` would raise; nothing is computed.

    Raises:
        ValueError: options that the model does not support.
    """
    from segray.models.clip.gem import check_features
    from segray.models.clip.tipsv2 import TipsV2
    from segray.models.clip.windowed import WINDOWED, windows_for

    if config.features in WINDOWED or isinstance(clip.model, TipsV2):
        windows_for(clip, config.features, config.image_size)
        return
    size = config.image_size or clip.image_size
    check_features(clip.model.visual, (size, size), **_feature_options(clip, config))


def clip_features(
    clip: ClipModel,
    config: ClipModelConfig,
    images: list[NDArray[np.uint8]],
    segments: list[list[Segment]] | None = None,
    sizes: list[tuple[int, int]] | None = None,
) -> Sequence[Tensor]:
    """Dense features [h, w, D] of each image; of GEM and CLIP one tensor [B, h, w, D].

    On a CPU one image at a time, so that no image's features depend on its batch.

    Args:
        clip: the model.
        config: its options.
        images: uint8 RGB [H, W, 3] each.
        segments: of each image, for features that look at them; None: there are none.
        sizes: (height, width) that the segments refer to; None: those of the images.

    Raises:
        ValueError: options that the model does not support.
    """
    from segray.models.clip.windowed import WINDOWED, windowed_features

    if config.features in WINDOWED:
        parts = zip(images, segments or [None] * len(images), sizes or [None] * len(images), strict=True)
        return [
            windowed_features(
                clip, config.features, image, side=config.image_size, segments=of_image, size=size
            )
            for image, of_image, size in parts
        ]
    return _plain_features(clip, config, images)


def _plain_features(clip: ClipModel, config: ClipModelConfig, images: list[NDArray[np.uint8]]) -> Tensor:
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
