"""The models without Ray: one image in, segments, features and labels out, in one process."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.models.annotators.sam import SamModel
from segray.models.clip.model import build_clip
from segray.models.clip.text import embed_label_space, resolve_templates
from segray.models.clip.zero_shot import classify_segments, dense_labels, pool_segments
from segray.models.label_map import SegmentClasses, render_label_map
from segray.models.label_space import label_space
from segray.models.masks import Segment
from segray.models.precision import resolve_precision
from segray.models.sam.generator import build_sam
from segray.pipelines.annotation.stages.features import clip_features
from segray.pipelines.annotation.stages.segment import mask_options
from segray.pipelines.config.commands.annotate import AnnotateConfig

Image = NDArray[np.uint8]


class Labeller:
    """Both models, loaded once, configured as `segray annotate` would.

    Args:
        config: of the command; the images and the output that it names are not touched.
        threads: of torch, on a CPU.
    """

    def __init__(self, config: AnnotateConfig, threads: int) -> None:
        torch.set_num_threads(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        sam, _ = build_sam(config.sam.model, config.sam.weights, sha256=config.sam.sha256)
        self._generator = SamModel(sam).source(device, mask_options(config.sam, device))
        self._clip = build_clip(
            config.clip.model,
            config.clip.weights,
            sha256=config.clip.sha256,
            device=device,
            precision=resolve_precision(config.clip.precision, device),
        )
        self.space = label_space(config.classes, config.label.background_names, config.label.aliases)
        self._classifier = embed_label_space(
            self._clip, self.space, resolve_templates(config.label.templates)
        )
        self._config = config

    def segments(self, image: Image, size: tuple[int, int] | None = None) -> list[Segment]:
        """What SAM finds in a uint8 [H, W, 3] image, or in the one of `size` that it is a small copy of."""
        segments: list[list[Segment]] = self._generator.generate([image], None if size is None else [size])
        return segments[0]

    def features(self, image: Image, kind: str) -> Tensor:
        """Dense features [h, w, D], "gem" or "clip", of a uint8 [H, W, 3] image."""
        features = clip_features(self._clip, self._config.clip.model_copy(update={"features": kind}), [image])
        return features[0]

    def name(self, segments: list[Segment], features: Tensor, height: int, width: int) -> SegmentClasses:
        """Names by Eq. 1 and 2, in the precision that the label set stores."""
        pooled = pool_segments(features, segments, height, width).half().float()
        return classify_segments(pooled, self._classifier, self._config.label.threshold)

    def label_pixels(
        self, features: Tensor, height: int, width: int, image: Image | None = None, steps: int = 0
    ) -> Image:
        """Label map uint8 [height, width], each pixel named by itself; with an image `refined`."""
        threshold = self._config.label.threshold
        return dense_labels(features, self._classifier, height, width, threshold, image, steps).label

    def label_segments(self, image: Image, size: tuple[int, int] | None = None) -> tuple[Image, Image]:
        """SAM + CLIP: label map and confidence, both uint8 [H, W], or of `size`."""
        height, width = size or image.shape[:2]
        segments = self.segments(image, size)
        features = self.features(image, self._config.clip.features)
        return render_label_map(segments, self.name(segments, features, height, width), height, width)
