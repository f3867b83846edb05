from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from segray.models.clip.model import ClipModel, build_clip
from segray.models.clip.text import TEMPLATES, embed_label_space, resolve_templates
from segray.models.label_space import LabelSpace
from tests.models.clip.tiny_clip import save_builtin, tiny_clip

SPACE = LabelSpace(
    ("background", "tree", "fish"), (("grass", "sea"), ("tree",), ("fish", "big {fish}", "a fish at sea"))
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipModel:
    path: Path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    return build_clip("builtin", str(save_builtin(tiny_clip(), path)))


@pytest.mark.parametrize("templates", [("{}",), ("a photo of a {}.", "{} and {}", "a drawing of the {}.")])
def test_an_embedding_is_the_mean_of_its_normalised_prompts(
    clip: ClipModel, templates: tuple[str, ...]
) -> None:
    classifier = embed_label_space(clip, SPACE, templates)
    assert classifier.class_ids.tolist() == [0, 0, 1, 2, 2, 2]
    assert classifier.logit_scale == pytest.approx(float(clip.model.logit_scale.exp()))
    for (_, name), embedding in zip(SPACE.names(), classifier.embeddings, strict=True):
        rows = [clip.model.encode_text(clip.tokenizer([t.replace("{}", name)]))[0] for t in templates]
        expected = torch.stack([row / row.norm() for row in rows]).mean(0)
        torch.testing.assert_close(embedding, expected / expected.norm(), rtol=1e-5, atol=1e-6)


def test_many_prompts_go_through_in_batches(clip: ClipModel) -> None:
    names = tuple(f"thing {i}" for i in range(7))
    space = LabelSpace(("background", *names), ((), *((name,) for name in names)))
    classifier = embed_label_space(clip, space, TEMPLATES["imagenet80"])
    single = LabelSpace(("background", "thing 6"), ((), ("thing 6",)))
    assert classifier.class_ids.tolist() == list(range(1, 8))
    assert classifier.embeddings.dtype == torch.float32
    last = embed_label_space(clip, single, TEMPLATES["imagenet80"]).embeddings[0]
    torch.testing.assert_close(classifier.embeddings[6], last, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(classifier.embeddings, F.normalize(classifier.embeddings, dim=-1))


def test_embeddings_are_plain_tensors_without_gradient(clip: ClipModel) -> None:
    classifier = embed_label_space(clip, SPACE, TEMPLATES["single"])
    assert not classifier.embeddings.requires_grad
    assert not classifier.embeddings.is_inference()


def test_a_label_space_without_names(clip: ClipModel) -> None:
    with pytest.raises(ValueError, match="no class has a name to prompt with"):
        embed_label_space(clip, LabelSpace(("background",), ((),)), TEMPLATES["single"])


def test_named_templates() -> None:
    assert resolve_templates("single") == ("a photo of a {}.",)
    assert len(set(resolve_templates("imagenet80"))) == 80
    assert "itap of a {}." in resolve_templates("imagenet80")
    assert all(template.count("{}") == 1 for template in resolve_templates("imagenet80"))


def test_own_templates() -> None:
    assert resolve_templates("a map of {}") == ("a map of {}",)
    assert resolve_templates(["a map of {}", "{}"]) == ("a map of {}", "{}")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("imagenet", "unknown templates 'imagenet': use single, imagenet80, tipsv2 or prompts with {}"),
        ([], "templates are empty: use single, imagenet80, tipsv2 or prompts with {}"),
        (["a {}", "a photo"], "template 'a photo' has no {} where the class name goes"),
        (["a {name}"], "template 'a {name}' has no {} where the class name goes"),
        ([3], "template 3 has no {} where the class name goes"),
    ],
)
def test_templates_that_are_refused(spec: Any, text: str) -> None:
    with pytest.raises(ValueError, match="^" + text.replace("{", r"\{") + "$"):
        resolve_templates(spec)
