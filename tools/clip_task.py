"""What the built-in CLIP is trained on: picture-book scenes and their captions, never a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES, SimpleTokenizer
from torch import Tensor

from models.gem import dense_features
from models.label_space import PICTURE_BOOK, PICTURE_BOOK_GROUNDS
from pipelines.picture_book import Scene, draw_scene
from tools.sam_task import TRAIN_SEED

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
CONCEPTS = PICTURE_BOOK + PICTURE_BOOK_GROUNDS
POOL = 6000
"""Scenes drawn once and used again, flipped and shifted: drawing them costs as much as a training step."""

CONTRAST_EVERY = 4
"""The class token's loss needs a second pass through the tower, so it is taken in one step of four."""


class ClipTask:
    """The loss of one step; batch `step` is always the same, so a stopped run can go on.

    Two terms: the usual contrastive loss between the class token and the caption, and a multiple-instance
    loss through GEM's path: a thing named in the caption must be found in some patches, another in none.

    Args:
        clip: an `open_clip.CLIP`.
        seed: chooses scenes, flips and templates.
        batch: images a step.
    """

    peak = 1e-3

    def __init__(self, clip: Any, seed: int, batch: int) -> None:
        self.clip, self.seed, self.batch = clip, seed, batch
        self.size = int(clip.visual.image_size[0])
        self.tokenizer = SimpleTokenizer()
        self.pool = [draw_scene(TRAIN_SEED, 10_000_000 + i, self.size) for i in range(POOL)]

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Mean loss over the batch's images, and its parts as floats."""
        rng = np.random.default_rng([self.seed, step])
        scenes = [self.pool[i] for i in rng.integers(0, POOL, self.batch)]
        images = torch.stack([_augment(rng, s) for s in scenes])
        present = torch.tensor([[c in (*s.objects, s.ground) for c in CONCEPTS] for s in scenes]).float()
        template = OPENAI_IMAGENET_TEMPLATES[int(rng.integers(len(OPENAI_IMAGENET_TEMPLATES)))]
        prompts = [template(c) for c in CONCEPTS]
        names = self.clip.encode_text(self.tokenizer(prompts), normalize=True).float()
        gem = dense_features(self.clip.visual, images, features="gem", depth=7).flatten(1, 2).float()
        instance, found = multiple_instance_loss(gem @ names.T, present, self.clip.logit_scale.exp())
        figures = {"instance": float(instance.detach()), "found": found}
        if step % CONTRAST_EVERY:
            return instance, figures
        captions = self.tokenizer([s.caption for s in scenes])
        contrast = self._contrastive(images, captions, present)
        return instance + contrast, {**figures, "contrast": float(contrast.detach())}

    def _contrastive(self, images: Tensor, captions: Tensor, present: Tensor) -> Tensor:
        """CLIP's symmetric loss; scenes with the same caption are all positives of each other."""
        image = self.clip.encode_image(images, normalize=True).float()
        text = self.clip.encode_text(captions, normalize=True).float()
        logits = self.clip.logit_scale.exp() * image @ text.T
        same = (present[:, None] == present[None]).all(2).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def multiple_instance_loss(similarity: Tensor, present: Tensor, scale: Tensor) -> tuple[Tensor, float]:
    """Loss and share of hits for cosines [B, N, C] of patches and names, and presence [B, C] in captions.

    Names compete for each patch (softmax). A present name must own its best patches, an absent one none.
    """
    owned = (scale * similarity).softmax(2)
    best = owned.topk(4, dim=1).values.mean(1).clamp(1e-4, 1 - 1e-4)
    most = owned.max(1).values.clamp(1e-4, 1 - 1e-4)
    found = -(present * best.log()).sum(1) / present.sum(1)
    absent = -((1 - present) * (1 - most).log()).sum(1) / (1 - present).sum(1)
    hits = ((best > 0.5) == (present > 0.5)).float().mean()
    return (found + 2 * absent).mean(), float(hits)


def _augment(rng: np.random.Generator, scene: Scene) -> Tensor:
    """Normalised float32 [3, S, S], perhaps mirrored, shifted by up to a patch."""
    image = torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255
    if rng.random() < 0.5:
        image = image.flip(2)
    shift = tuple(int(v) for v in rng.integers(-12, 13, 2))
    padded = F.pad(image[None], (12, 12, 12, 12), mode="reflect")[0]
    y, x = 12 + shift[0], 12 + shift[1]
    return (padded[:, y : y + image.shape[1], x : x + image.shape[2]] - MEAN) / STD
