"""What the built-in SAM is trained on: points on picture-book scenes and the masks they should give."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segray.pipelines.scenes.picture_book import Scene, draw_scene

TRAIN_SEED = 987_654_321
"""Scenes of this seed are for training only; everything else measures on other seeds."""

POINTS = 16
GROUND_SHARE = 0.25

SCENES_A_SEED = 100_000_000
"""Each training seed draws from a range of scene numbers of its own."""

SHARPEN = 6.0
"""Factor on the trained mask logits. Masks are where logits are positive, so it changes none; it only makes a
logit of 1, which the stability score moves by, as small a step as it is in the published models."""


@torch.no_grad()
def sharpen(sam: Any, factor: float) -> None:
    """Multiply all mask logits by `factor`, in the last layer of the networks that make them."""
    for network in sam.mask_decoder.output_hypernetworks_mlps:
        network.layers[-1].weight.mul_(factor)
        network.layers[-1].bias.mul_(factor)


class SamTask:
    """The loss of one step; batch `step` is always the same, so a stopped run can go on.

    Args:
        sam: a `segment_anything.modeling.Sam`.
        seed: chooses the points and a range of the scenes of `TRAIN_SEED`.
        batch: images per step.
    """

    peak = 1e-3

    def __init__(self, sam: Any, seed: int, batch: int) -> None:
        self.sam, self.seed, self.batch = sam, seed, batch
        self.size = int(sam.image_encoder.img_size)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Mean loss over the batch's points, and its parts as floats."""
        rng = np.random.default_rng([self.seed, step])
        first = self.seed * SCENES_A_SEED + step * self.batch
        scenes = [draw_scene(TRAIN_SEED, first + i, self.size) for i in range(self.batch)]
        images = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2)
        features = self.sam.image_encoder(self.sam.preprocess(images.float()))
        losses, figures = [], []
        for scene, embedding in zip(scenes, features, strict=True):
            points, targets = sample_points(rng, scene)
            loss, figure = self._image_loss(embedding[None], points, targets)
            losses.append(loss)
            figures.append(figure)
        mean = {k: float(np.nanmean([f[k] for f in figures])) for k in figures[0]}
        return torch.stack(losses).mean(), mean

    def _image_loss(
        self, embedding: Tensor, points: Tensor, targets: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Points [P, 2] in pixels, targets [P, S, S] float, empty for points on the ground."""
        sam = self.sam
        labels = torch.ones(len(points), 1, dtype=torch.int)
        sparse, dense = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
        low, iou = sam.mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        logits = low.float()
        # The decoder's own grid costs a quarter; an averaged mask still says where in a cell the edge runs.
        truth = F.adaptive_avg_pool2d(targets[:, None], logits.shape[2:]).expand_as(logits)
        with torch.no_grad():
            hit, real = logits > 0, truth > 0.5
            actual = (hit & real).sum((2, 3)) / (hit | real).sum((2, 3)).clamp(min=1)
        iou_loss = F.mse_loss(iou.float(), actual)
        on_object = targets.flatten(1).any(1)
        if not on_object.any():
            return iou_loss, {
                "mask": float("nan"),
                "iou_error": float(iou_loss.detach()),
                "best_iou": float("nan"),
            }
        per_mask = mask_loss(logits[on_object], truth[on_object])
        # Token 0 answers alone where one mask is asked for; the other three compete, as in SAM's training.
        three = per_mask[:, 1:]
        mask = three.min(1).values.mean() + 0.25 * three.mean() + 0.25 * per_mask[:, 0].mean()
        best = actual[on_object][:, 1:].max(1).values.mean()
        return mask + iou_loss, {
            "mask": float(mask.detach()),
            "iou_error": float(iou_loss.detach()),
            "best_iou": float(best),
        }


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy and dice: [P, M] for logits and soft masks [P, M, h, w].

    Most pixels are far from the object and easy: the entropy's sum is divided by the object's own area and a
    little of the image's, so that small objects are heard and tiny ones do not shout.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum((2, 3))
    area = truth.sum((2, 3)) + 0.03 * logits.shape[2] * logits.shape[3]
    p = logits.sigmoid()
    dice = 1 - (2 * (p * truth).sum((2, 3)) + 1) / (p.sum((2, 3)) + truth.sum((2, 3)) + 1)
    return entropy / area + dice


def sample_points(rng: np.random.Generator, scene: Scene) -> tuple[Tensor, Tensor]:
    """Points [P, 2] (x, y) in pixels, evenly over the objects and some on the ground; masks [P, S, S]."""
    points, targets = [], []
    count = len(scene.objects)
    for _ in range(POINTS):
        k = 0 if count == 0 or rng.random() < GROUND_SHARE else int(rng.integers(1, count + 1))
        mask = scene.instances == k
        if not mask.any():
            k, mask = 0, scene.instances == 0
        y, x = divmod(int(rng.choice(np.flatnonzero(mask.ravel()))), mask.shape[1])
        points.append((x + 0.5, y + 0.5))
        targets.append(mask if k else np.zeros_like(mask))
    return torch.tensor(points, dtype=torch.float32), torch.from_numpy(np.stack(targets)).float()
