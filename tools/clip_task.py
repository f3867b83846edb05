"""What the built-in CLIP is trained on: picture-book scenes and their captions, never a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES, SimpleTokenizer
from torch import Tensor

from segray.models.builtin.arch import CLIP_DEPTH
from segray.models.clip.gem import dense_features
from segray.models.label_space import PICTURE_BOOK, PICTURE_BOOK_GROUNDS
from segray.pipelines.scenes.picture_book import Scene, draw_scene
from tools.sam_task import SCENES_A_SEED, TRAIN_SEED

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
CONCEPTS = PICTURE_BOOK + PICTURE_BOOK_GROUNDS
POOL = 6000
"""Scenes drawn once and used again, flipped and shifted: drawing them costs as much as a training step."""

CONTRAST_EVERY = 4
"""The class token's loss needs a second pass through the tower, so it is taken in one step of four."""

CLOSE_UP = (0.14, 0.45)
"""Half side of the only thing in a close-up, as a share of the scene's side: there the caption says plainly
what is in view."""

SPREAD = 14.0
"""Factor on the cosines of names in two templates. Without a loss that tells names apart, the text tower
gives nearly all things one direction, and stays there for hundreds of steps."""

BEST_PATCHES = 4
"""So many patches a thing covers at the least."""

MARGIN = 0.3
SHARPNESS = 15.0


class ClipTask:
    """The loss of one step; batch `step` is always the same, so a stopped run can go on.

    Three terms. Names stay apart whatever the template. The usual contrastive loss stands between class
    token and caption. And a multiple-instance loss goes through GEM's path: a thing that the caption names
    must be found in some patches, any other in none.

    Args:
        clip: an `open_clip.CLIP`.
        seed: chooses scenes, flips and templates.
        batch: images per step.
        size: side of the images in pixels; the model's own unless given. The class token always sees them
            at the model's own size.
    """

    peak = 2e-3

    def __init__(self, clip: Any, seed: int, batch: int, size: int | None = None) -> None:
        self.clip, self.seed, self.batch = clip, seed, batch
        self.own_size = int(clip.visual.image_size[0])
        self.size = size or self.own_size
        self.tokenizer = SimpleTokenizer()
        first = seed * SCENES_A_SEED
        self.pool = [training_scene(first + i, self.size) for i in range(POOL)]

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Mean loss over the batch's images, and its parts as floats."""
        rng = np.random.default_rng([self.seed, step])
        scenes = [self.pool[i] for i in rng.integers(0, POOL, self.batch)]
        images = torch.stack([_augment(rng, s) for s in scenes])
        present = torch.tensor([[c in (*s.objects, s.ground) for c in CONCEPTS] for s in scenes]).float()
        first, second = rng.choice(len(OPENAI_IMAGENET_TEMPLATES), 2, replace=False)
        names, others = self._names(int(first)), self._names(int(second))
        gem = dense_features(self.clip.visual, images, features="gem", depth=CLIP_DEPTH).flatten(1, 2).float()
        instance, found = multiple_instance_loss(gem @ names.T, present, self.clip.logit_scale.exp())
        apart = F.cross_entropy(SPREAD * names @ others.T, torch.arange(len(CONCEPTS)))
        figures = {"instance": float(instance.detach()), "apart": float(apart.detach()), "found": found}
        if step % CONTRAST_EVERY:
            return instance + 0.5 * apart, figures
        captions = self.tokenizer([s.caption for s in scenes])
        contrast = self._contrastive(images, captions, present)
        return instance + 0.5 * apart + contrast, {**figures, "contrast": float(contrast.detach())}

    def _names(self, template: int) -> Tensor:
        """Text embeddings [C, D] of the concepts in one of CLIP's 80 templates."""
        prompts = [OPENAI_IMAGENET_TEMPLATES[template](c) for c in CONCEPTS]
        return self.clip.encode_text(self.tokenizer(prompts), normalize=True).float()

    def _contrastive(self, images: Tensor, captions: Tensor, present: Tensor) -> Tensor:
        """CLIP's symmetric loss; scenes with the same caption are all positives of each other."""
        if self.size != self.own_size:
            images = F.interpolate(images, size=self.own_size, mode="bilinear", antialias=True)
        image = self.clip.encode_image(images, normalize=True).float()
        text = self.clip.encode_text(captions, normalize=True).float()
        logits = self.clip.logit_scale.exp() * image @ text.T
        same = (present[:, None] == present[None]).all(2).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def training_scene(index: int, size: int) -> Scene:
    """Every second one is a close-up of a single thing, as in most captioned photographs."""
    if index % 2:
        return draw_scene(TRAIN_SEED, 10_000_000 + index, size)
    return draw_scene(TRAIN_SEED, 10_000_000 + index, size, objects=1, radius=CLOSE_UP)


def multiple_instance_loss(similarity: Tensor, present: Tensor, scale: Tensor) -> tuple[Tensor, float]:
    """Loss and share of hits for cosines [B, N, C] of patches and names, and presence [B, C] in captions.

    A name's score is the mean cosine of its best patches. It must be above `MARGIN` where the caption has the
    name and below where not; and names compete for each patch, so that a thing's patches get one name.
    """
    score = similarity.topk(BEST_PATCHES, dim=1).values.mean(1)
    logits = SHARPNESS * (score - MARGIN)
    each = F.binary_cross_entropy_with_logits(logits, present)
    owned = (scale * similarity).softmax(2).topk(BEST_PATCHES, dim=1).values.mean(1)
    shared = -(present * owned.clamp(min=1e-4).log()).sum(1) / present.sum(1)
    hits = ((logits > 0) == (present > 0.5)).float().mean()
    return 3 * each + 0.5 * shared.mean(), float(hits)


def _augment(rng: np.random.Generator, scene: Scene) -> Tensor:
    """Normalised float32 [3, S, S], perhaps mirrored, shifted by up to a patch."""
    image = torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255
    if rng.random() < 0.5:
        image = image.flip(2)
    shift = tuple(int(v) for v in rng.integers(-12, 13, 2))
    padded = F.pad(image[None], (12, 12, 12, 12), mode="reflect")[0]
    y, x = 12 + shift[0], 12 + shift[1]
    return (padded[:, y : y + image.shape[1], x : x + image.shape[2]] - MEAN) / STD
