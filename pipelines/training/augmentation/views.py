"""From a step's samples to the tensors of its views: weak, strong, CutMix, dropped channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segray.pipelines.config.commands.train import AugmentConfig
from segray.pipelines.training.augmentation.augment import CutMix, StrongAugment, WeakAugment
from segray.pipelines.training.data.batches import StepSamples
from segray.pipelines.training.data.sampler import LABELLED, UNLABELLED


@dataclass(frozen=True)
class Views:
    """Everything a step shows to the network; images float [B, 3, S, S] in 0..1.

    Attributes:
        labelled: weakly augmented images, and `mask` [L, S, S] int64 (255: does not count).
        weak: unlabelled images, and `zero_shot` [U, S, S] int64, `confidence` [U, S, S] in 0..1.
        padding: [U, S, S] bool, pixels outside the image.
        strong: views of `weak`, CutMix included.
        boxes: for each strong view, [U, S, S] bool: pixels that come from the partner image.
    """

    labelled: Tensor
    mask: Tensor
    weak: Tensor | None = None
    zero_shot: Tensor | None = None
    confidence: Tensor | None = None
    padding: Tensor | None = None
    strong: tuple[Tensor, ...] = ()
    boxes: tuple[Tensor, ...] = ()


class Augmentation:
    """Weak and strong augmentation and CutMix as one function of a step's samples."""

    def __init__(self, config: AugmentConfig, strong_views: int, seed: int, device: torch.device) -> None:
        self.weak = WeakAugment(crop=config.crop, scale=config.scale, flip=config.flip)
        self.strong = StrongAugment(
            jitter_p=config.jitter,
            brightness=config.brightness,
            contrast=config.contrast,
            saturation=config.saturation,
            hue=config.hue,
            gray_p=config.gray,
            blur_p=config.blur,
            blur_sigma=config.blur_sigma,
        )
        self.cutmix = CutMix(p=config.cutmix, area=config.cutmix_area, aspect=config.cutmix_aspect)
        self.strong_views, self.seed, self.device = strong_views, seed, device

    def __call__(self, samples: StepSamples) -> tuple[Views, list[torch.Generator]]:
        """The views, and the unlabelled images' generators for what is still to be drawn."""
        draws = samples.labelled.generators(self.seed, LABELLED)
        labelled = self.weak(*self._to_device(samples.labelled.images, samples.labelled.maps), draws)
        views = Views(labelled.images, labelled.maps[0].long())
        if samples.unlabelled is None:
            return views, []
        draws = samples.unlabelled.generators(self.seed, UNLABELLED)
        weak = self.weak(*self._to_device(samples.unlabelled.images, samples.unlabelled.maps), draws)
        strong, boxes = self._strong(weak.images, draws)
        views = Views(
            views.labelled,
            views.mask,
            weak.images,
            weak.maps[0].long(),
            weak.maps[1].float() / 255,
            weak.padding,
            strong,
            boxes,
        )
        return views, draws

    def _strong(
        self, weak: Tensor, draws: list[torch.Generator]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        strong, boxes = [], []
        for _ in range(self.strong_views):
            view = self.strong(weak, draws)
            box = self.cutmix.boxes(len(view), view.shape[-2], view.shape[-1], draws).to(view.device)
            strong.append(self.cutmix.mix(view, partner(view), box))
            boxes.append(box)
        return tuple(strong), tuple(boxes)

    def _to_device(
        self, images: list[Tensor], maps: list[list[Tensor]]
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        if self.device.type == "cpu":
            return images, maps
        moved = [image.to(self.device, non_blocking=True) for image in images]
        return moved, [[m.to(self.device, non_blocking=True) for m in own] for own in maps]


def partner(batch: Tensor) -> Tensor:
    """Each image's CutMix partner: the other one of its pair, however many workers share the batch."""
    order = [i ^ 1 if i ^ 1 < len(batch) else i for i in range(len(batch))]
    return batch[order]
