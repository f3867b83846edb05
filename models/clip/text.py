"""Class names as CLIP text embeddings: prompt templates and their ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor

from segray.models.clip.model import ClipModel
from segray.models.label_space import LabelSpace

TEMPLATES: dict[str, tuple[str, ...]] = {
    "single": ("a photo of a {}.",),
    "imagenet80": tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES),
    "tipsv2": (
        "itap of a {}.",
        "a bad photo of a {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
        "a photo of many {}.",
        "a photo of {}s.",
    ),
}
"""Named prompt templates: CLIP's usual one, the 80 of OpenAI for ImageNet (Radford et al., 2021), and nine of
TIPS."""

_PROMPTS_AT_ONCE = 256


@dataclass(frozen=True)
class ZeroShotClassifier:
    """The text side of zero-shot naming, or what masks made of it.

    Attributes:
        embeddings: [N, D] float32, one row per prompt name; L2-normalised if there is no bias.
        class_ids: [N] int64, the class that each name stands for; several names may share one.
        logit_scale: CLIP's learned factor on cosines before a softmax.
        bias: [N] float32, what masks add to each name's score, which is then a logit; None: it is a cosine.
    """

    embeddings: Tensor
    class_ids: Tensor
    logit_scale: float
    bias: Tensor | None = None

    @cached_property
    def classes(self) -> tuple[Tensor, Tensor]:
        """The class ids [C], ascending, and each name's index into them, [N]; found once, as a GPU waits."""
        ids, index = torch.unique(self.class_ids.to(self.embeddings.device), return_inverse=True)
        return ids, index


def resolve_templates(spec: str | Sequence[str]) -> tuple[str, ...]:
    """The templates that a name of `TEMPLATES`, one template, or a list of templates stands for.

    Raises:
        ValueError: an unknown name, an empty list, or a template without {}.
    """
    if isinstance(spec, str):
        if spec in TEMPLATES:
            return TEMPLATES[spec]
        if "{}" not in spec:
            raise ValueError(f"unknown templates {spec!r}: use {', '.join(TEMPLATES)} or prompts with {{}}")
        return (spec,)
    if not spec:
        raise ValueError(f"templates are empty: use {', '.join(TEMPLATES)} or prompts with {{}}")
    wrong = next((t for t in spec if not isinstance(t, str) or "{}" not in t), None)
    if wrong is not None:
        raise ValueError(f"template {wrong!r} has no {{}} where the class name goes")
    return tuple(spec)


def embed_label_space(clip: ClipModel, space: LabelSpace, templates: Sequence[str]) -> ZeroShotClassifier:
    """Embed every name of a label space, on the device of the model.

    A name's embedding is the ensemble of its prompts: each one L2-normalised, their mean over the templates,
    normalised again (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    2021, section 3.1.4).

    Raises:
        ValueError: a label space without names, or templates that `resolve_templates` refuses.
    """
    templates = resolve_templates(templates)
    names = space.names()
    if not names:
        raise ValueError("no class has a name to prompt with: give at least one class name")
    prompts = [template.replace("{}", name) for _, name in names for template in templates]
    encoded = F.normalize(_encode(clip, prompts), dim=-1).unflatten(0, (len(names), len(templates)))
    class_ids = torch.tensor([class_id for class_id, _ in names], device=encoded.device)
    return ZeroShotClassifier(
        F.normalize(encoded.mean(1), dim=-1), class_ids, clip.model.logit_scale.exp().item()
    )


@torch.no_grad()
def _encode(clip: ClipModel, prompts: list[str]) -> Tensor:
    """Text features [N, D] float32, a bounded number of prompts at once."""
    chunks = [prompts[i : i + _PROMPTS_AT_ONCE] for i in range(0, len(prompts), _PROMPTS_AT_ONCE)]
    return torch.cat(
        [clip.model.encode_text(clip.tokenizer(chunk).to(clip.device)).float() for chunk in chunks]
    )
