from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from segray.models.builtin.arch import CLIP_ARCH, build_builtin_clip
from segray.models.clip.gem import clip_tokens, dense_features, gem_tokens
from segray.models.clip.towers import check_config, check_tower
from tests.models.clip.tiny_clip import tiny_clip

GOLDEN = ["default_112", "native_64", "quickgelu_rect", "iter2_depth4", "temp10"]


@pytest.mark.parametrize("name", GOLDEN)
def test_both_streams_equal_the_published_implementation(golden: Path, name: str) -> None:
    """Reference: gem_torch 1.0.1 on open_clip 2.23, the last release that it is right with."""
    with np.load(golden / "gem.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    meta = json.loads(str(arrays["meta"]))
    case = next(case for case in meta["cases"] if case["name"] == name)
    visual = CLIP(**meta["cfg"], quick_gelu=case["quick_gelu"]).eval().visual
    prefix = "sd/visual."
    visual.load_state_dict(
        {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
    )
    images, gem, original = (torch.from_numpy(arrays[f"{name}/{key}"]) for key in ("input", "gem", "ori"))
    options = {"iterations": case.get("ss_attn_iter", 1), "temperature": case.get("ss_attn_temp")}
    with torch.no_grad():
        assert (gem_tokens(visual, images, depth=case["depth"], **options) - gem).abs().max() < 1e-5
        assert (clip_tokens(visual, images) - original).abs().max() < 1e-5


def reference_gem(
    visual: Any, image: Tensor, depth: int, iterations: int, temperature: float | None
) -> Tensor:
    """The equations, one image, one head and one matrix at a time."""
    grid = [n // visual.patch_size[0] for n in image.shape[1:]]
    side = visual.grid_size[0]
    patches = visual.conv1(image[None])[0].flatten(1).T
    table = visual.positional_embedding[1:].T.reshape(1, -1, side, side)
    table = F.interpolate(table, grid, mode="bicubic", antialias=True)[0].flatten(1).T
    first = visual.class_embedding + visual.positional_embedding[0]
    x = visual.ln_pre(torch.cat([first[None], patches + table]))
    blocks = list(visual.transformer.resblocks)
    for block in blocks[: len(blocks) - depth + 1]:
        x = block(x[None])[0]
    g = x
    for block in blocks[len(blocks) - depth + 1 :]:
        y, attention = block.ln_1(x), block.attn
        weights = attention.in_proj_weight.chunk(3)
        biases = attention.in_proj_bias.chunk(3)
        size = attention.head_dim
        factor = temperature or y.norm(dim=1).mean() / size**0.5
        heads = []
        for h in range(attention.num_heads):
            rows = slice(h * size, (h + 1) * size)
            q, k, v = (y @ w[rows].T + b[rows] for w, b in zip(weights, biases, strict=True))
            outputs = []
            for s in (v, k, q):
                for _ in range(iterations):
                    s = s / s.norm(dim=1, keepdim=True)
                    s = (factor * s @ s.T).softmax(1) @ s
                s = s / s.norm(dim=1, keepdim=True)
                outputs.append((factor * s @ s.T).softmax(1) @ v)
            heads.append((outputs[0] + outputs[1] + outputs[2]) / 3)
        g = g + block.ls_1(attention.out_proj(torch.cat(heads, 1)))
        x = block(x[None])[0]
    return visual.ln_post(g) @ visual.proj


@pytest.mark.parametrize(
    ("depth", "iterations", "temperature"),
    [(2, 1, None), (3, 2, None), (4, 1, 4.0), (4, 0, None), (3, 3, 0.5)],
)
@pytest.mark.parametrize("changes", [{}, {"quick_gelu": True, "vision": {"ls_init_value": 0.5}}])
def test_gem_follows_its_equations(
    depth: int, iterations: int, temperature: float | None, changes: dict[str, Any]
) -> None:
    visual = tiny_clip(**changes).visual
    images = torch.randn(2, 3, 40, 24)
    options: dict[str, Any] = {"depth": depth, "iterations": iterations, "temperature": temperature}
    with torch.no_grad():
        expected = torch.stack([reference_gem(visual, image, **options) for image in images])
        torch.testing.assert_close(gem_tokens(visual, images, **options), expected, rtol=1e-4, atol=1e-5)


def test_clip_features_are_the_towers_own_patch_tokens() -> None:
    model = tiny_clip()
    model.visual.output_tokens = True
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pooled, tokens = model.visual(images)
        expected = F.normalize(tokens @ model.visual.proj, dim=-1).reshape(2, 4, 4, 12)
        torch.testing.assert_close(dense_features(model.visual, images, features="clip"), expected)
        torch.testing.assert_close(clip_tokens(model.visual, images)[:, 0], pooled)


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (24, 64), (72, 16)])
@pytest.mark.parametrize("features", ["gem", "clip"])
def test_any_multiple_of_the_patch_size(size: tuple[int, int], features: Any) -> None:
    out = dense_features(tiny_clip().visual, torch.randn(2, 3, *size), features=features, depth=3)
    assert out.shape == (2, size[0] // 8, size[1] // 8, 12)
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(out.shape[:3]))


def test_rows_are_rows_and_columns_are_columns() -> None:
    """Changing one patch changes that patch's feature most."""
    visual = tiny_clip().visual
    image = torch.randn(1, 3, 32, 48)
    changed = image.clone()
    changed[:, :, 8:16, 32:40] += 3
    with torch.no_grad():
        distance = (dense_features(visual, changed, depth=2) - dense_features(visual, image, depth=2)).norm(
            dim=-1
        )
    assert divmod(int(distance.argmax()), 6) == (1, 4)


@pytest.mark.parametrize("features", ["gem", "clip"])
def test_features_do_not_depend_on_the_batch(features: Any) -> None:
    visual = tiny_clip().visual
    images = torch.randn(3, 3, 32, 32) * torch.tensor([0.1, 1.0, 10.0]).view(3, 1, 1, 1)
    with torch.no_grad():
        together = dense_features(visual, images, features=features, depth=4)
        alone = torch.cat(
            [dense_features(visual, image[None], features=features, depth=4) for image in images]
        )
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_gradients_reach_all_but_the_last_feed_forward() -> None:
    visual = tiny_clip().visual
    images = torch.randn(2, 3, 40, 40)
    dense_features(visual, images, depth=3)[..., 0].sum().backward()
    last = f"transformer.resblocks.{len(visual.transformer.resblocks) - 1}."
    for name, parameter in visual.named_parameters():
        dead = name.startswith((last + "ln_2", last + "mlp"))
        assert (parameter.grad is None) == dead, name
        assert dead or (parameter.grad.isfinite().all() and parameter.grad.any()), name


def test_the_gradient_is_the_slope() -> None:
    visual = tiny_clip().double().visual
    images = torch.randn(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: dense_features(visual, x, depth=3)[:, 0, 0], images, fast_mode=True, atol=1e-4
    )


def test_the_tower_stays_as_it_was() -> None:
    visual = tiny_clip().visual
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        state, before = {k: v.clone() for k, v in visual.state_dict().items()}, visual(images)
        dense_features(visual, torch.randn(1, 3, 64, 32), depth=4)
        torch.testing.assert_close(visual(images), before, rtol=0, atol=0)
    assert all(torch.equal(v, state[k]) for k, v in visual.state_dict().items())


def test_the_built_in_architecture_has_dense_features() -> None:
    visual = build_builtin_clip(CLIP_ARCH).visual
    size = CLIP_ARCH["vision_cfg"]["image_size"]
    with torch.no_grad():
        assert dense_features(visual, torch.randn(1, 3, size, size)).shape[3] == CLIP_ARCH["embed_dim"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"depth": 1}, "depth 1 is not possible: this tower has 3 blocks, use 2 to 4"),
        ({"depth": 5}, "depth 5 is not possible: this tower has 3 blocks, use 2 to 4"),
        ({"iterations": -1}, "iterations must be 0 or more, not -1"),
        ({"temperature": 0.0}, "temperature must be a positive number or null, not 0.0"),
        ({"temperature": float("nan")}, "temperature must be a positive number or null, not nan"),
        ({"features": "dino"}, 'unknown features "dino": use "gem" or "clip"'),
    ],
)
def test_options_out_of_range(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match="^" + text.replace(".", r"\.")):
        dense_features(tiny_clip().visual, torch.zeros(1, 3, 32, 32), **({"depth": 3} | options))


@pytest.mark.parametrize("size", [(33, 32), (32, 20), (4, 32)])
def test_an_input_that_cuts_a_patch(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[1]}x{size[0]} px does not fit patches of 8x8 px"):
        dense_features(tiny_clip().visual, torch.zeros(1, 3, *size), depth=3)


def without(attribute: str) -> nn.Module:
    visual: nn.Module = tiny_clip().visual
    setattr(visual, attribute, None)
    return visual


@pytest.mark.parametrize(
    ("visual", "reason"),
    [
        (ModifiedResNet([1, 1, 1, 1], 16, 2, image_size=32, width=8), "a ResNet"),
        (nn.Linear(2, 2), "a Linear, not an open_clip VisionTransformer"),
        (tiny_clip(vision={"attentional_pool": True, "attn_pooler_heads": 2}).visual, "attentional pooling"),
        (tiny_clip(vision={"block_type": "custom", "qk_norm": True}).visual, "custom attention blocks"),
        (without("proj"), "no linear projection"),
        (without("class_embedding"), "no class token"),
    ],
)
def test_towers_without_dense_features_are_refused(visual: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=f"no dense features: {reason}.*supported are .*ViT-B-16"):
        dense_features(visual, torch.zeros(1, 3, 32, 32), depth=3)


def test_every_model_of_open_clip_is_accepted_or_refused_with_a_reason() -> None:
    refused = {}
    for name in open_clip.list_models():
        try:
            check_config(name, open_clip.get_model_config(name))
        except ValueError as error:
            refused[name] = str(error)
    accepted = set(open_clip.list_models()) - set(refused)
    assert {"ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14-336", "ViT-H-14-CLIPA"} <= accepted
    assert "a ResNet" in refused["RN50"]
    assert "a timm tower" in refused["ViT-B-16-SigLIP"]
    assert "attentional pooling" in refused["coca_ViT-B-32"]
    assert not any("timm" in open_clip.get_model_config(name)["vision_cfg"] for name in accepted)


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14-CLIPA-336", "ViT-M-16-alt", "ViT-H-14-quickgelu"])
def test_accepted_configurations_build_accepted_towers(name: str) -> None:
    config = open_clip.get_model_config(name)
    check_config(name, config)
    with torch.device("meta"):
        check_tower(CLIP(**config).visual)
