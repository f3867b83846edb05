"""From a step's batch to the tensors of its views: weak, strong, CutMix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segray.models.transfer import to_device
from segray.pipelines.config.commands.train import AugmentConfig
from segray.pipelines.corrections.apply import SURE
from segray.pipelines.training.augmentation.augment import CutMix, StrongAugment, WeakAugment, WeakBatch
from segray.pipelines.training.data.sampler import LABELLED, UNLABELLED, Batch, StepBatch


@dataclass(frozen=True)
class Views:
    """The network's inputs in a step; images float [B, 3, S, S] in 0..1.

    Attributes:
        labelled: weakly augmented images, and `mask` [L, S, S] int64 (`ignore_index_of`: ignored).
        weak: unlabelled images, the last P of them partners of others alone, and `zero_shot`
            [U + P, S, S] int64, `confidence` [U + P, S, S] in 0..1.
        by_hand: [U + P, S, S] bool, pixels of `zero_shot` whose class a person has given.
        segments: [U + P, S, S] int16, the number of each pixel's segment, 0 without; None: not asked for.
        padding: [U + P, S, S] bool, pixels outside the image.
        strong: views of the first U images, CutMix included.
        boxes: for each strong view, [U, S, S] bool: pixels from the partner image.
        partner: [U] int64, the index of each image's partner among all.
    """

    labelled: Tensor
    mask: Tensor
    weak: Tensor | None = None
    zero_shot: Tensor | None = None
    confidence: Tensor | None = None
    by_hand: Tensor | None = None
    segments: Tensor | None = None
    padding: Tensor | None = None
    strong: tuple[Tensor, ...] = ()
    boxes: tuple[Tensor, ...] = ()
    partner: Tensor | None = None


class Augmentation:
    """Weak and strong augmentation and CutMix as one function of a step's batch.

    Args:
        config: ranges and chances.
        strong_views: how many strong views each unlabelled image has.
        seed: of the run.
        device: of the views.
    """

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

    def __call__(self, batch: StepBatch) -> tuple[Views, list[torch.Generator]]:
        """The views, and the generators of the first U unlabelled images for further random numbers."""
        labelled = self._weak(batch.labelled, batch.labelled.generators(self.seed, LABELLED))
        mask = labelled.maps[0].long()
        if batch.unlabelled is None:
            return Views(labelled.images, mask), []
        draws = batch.unlabelled.generators(self.seed, UNLABELLED)
        weak = self._weak(batch.unlabelled, draws)
        own = batch.unlabelled.own
        partner = to_device(torch.tensor(batch.unlabelled.partners()), self.device)
        strong, boxes = self._strong(weak.images, partner, draws)
        views = Views(
            labelled=labelled.images,
            mask=mask,
            weak=weak.images,
            zero_shot=weak.maps[0].long(),
            confidence=(weak.maps[1].float() / 255).masked_fill(weak.maps[1] >= SURE - 1, 1),
            by_hand=(weak.maps[1] == SURE) & ~weak.padding,
            segments=weak.maps[2] if len(weak.maps) > 2 else None,
            padding=weak.padding,
            strong=strong,
            boxes=boxes,
            partner=partner,
        )
        return views, draws[:own]

    def _weak(self, batch: Batch, draws: list[torch.Generator]) -> WeakBatch:
        images, maps = self._to_device(batch.images, batch.maps)
        return self.weak(images, maps, draws)

    def _strong(
        self, weak: Tensor, partner: Tensor, draws: list[torch.Generator]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        strong, boxes = [], []
        for _ in range(self.strong_views):
            view = self.strong(weak, draws)
            drawn = self.cutmix.boxes(len(view), view.shape[-2], view.shape[-1], draws)
            own = len(partner)
            box = to_device(drawn[:own], view.device)
            strong.append(self.cutmix.mix(view[:own], view.index_select(0, partner), box))
            boxes.append(box)
        return tuple(strong), tuple(boxes)

    def _to_device(
        self, images: list[Tensor], maps: list[list[Tensor]]
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        if self.device.type == "cpu":
            return images, maps
        moved = [image.to(self.device, non_blocking=True) for image in images]
        return moved, [[m.to(self.device, non_blocking=True) for m in group] for group in maps]
