"""The plain way: a script of the published parts. Both models in one process, and a loop over the images.

    python -m benchmarks.plain IMAGES OUT [KEY=VALUE ...]

It imports nothing else, as its start-up is measured, too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from torch import Tensor

from segray.models.clip.model import build_clip
from segray.models.clip.text import embed_label_space, resolve_templates
from segray.models.clip.zero_shot import classify_segments
from segray.models.label_map import LabelMap, SegmentClasses
from segray.models.label_space import label_space
from segray.models.sam.generator import SAM_MODELS, build_sam
from segray.pipelines.annotation.stages.features import clip_features
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import load


class PlainWay:
    """Both models, loaded once, as a script of the published parts would use them."""

    def __init__(self, config: AnnotateConfig) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.sam: Any = build_sam(config.sam.model, config.sam.weights)[0].to(torch.device(device))
        names = ("points_per_side", "pred_iou_thresh", "stability_score_thresh")
        options = {name: getattr(SAM_MODELS[config.sam.model], name) for name in names}
        self._generator = SamAutomaticMaskGenerator(self.sam, **options)
        self._clip = build_clip(config.clip.model, config.clip.weights, device=device)
        space = label_space(config.classes, config.label.background_names, config.label.aliases)
        self._classifier = embed_label_space(self._clip, space, resolve_templates(config.label.templates))
        self._config = config

    def label(self, image: NDArray[np.uint8]) -> LabelMap:
        """Label map [H, W] of a uint8 [H, W, 3] image."""
        masks = [record["segmentation"] for record in self._generator.generate(image)]
        if not masks:
            return np.zeros(image.shape[:2], np.uint8)
        features = clip_features(self._clip, self._config.clip, [image])[0]
        on_device = [torch.from_numpy(mask).to(features.device) for mask in masks]
        with torch.inference_mode():
            pooled = upsample_then_mean(features, on_device)
        return _painted(masks, classify_segments(pooled, self._classifier, self._config.label.threshold))


def _painted(masks: Sequence[NDArray[np.bool_]], naming: SegmentClasses) -> LabelMap:
    label = np.zeros(masks[0].shape, np.uint8)
    for k in sorted(range(len(masks)), key=lambda k: (-masks[k].sum(), naming.score[k])):
        if naming.has_class[k]:
            label[masks[k]] = naming.class_id[k]
    return label


def upsample_then_mean(features: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """The peer: [K, D] from features [h, w, D] and K masks bool [H, W]."""
    height, width = masks[0].shape
    full = F.interpolate(
        features.permute(2, 0, 1)[None], (height, width), mode="bilinear", align_corners=False
    )[0]
    weights = torch.stack(list(masks)).flatten(1).to(full.dtype)
    return weights @ full.flatten(1).T / weights.sum(1, keepdim=True)


def main(source: str, out: str, *overrides: str) -> None:
    """A label PNG of each image of a folder in the new folder `out`."""
    config = load(AnnotateConfig, None, [f"images={source}", f"out={out}", *overrides])
    way = PlainWay(config)
    Path(out).mkdir()
    for path in sorted(Path(source).iterdir()):
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
        Image.fromarray(way.label(pixels)).save(Path(out) / f"{path.stem}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
