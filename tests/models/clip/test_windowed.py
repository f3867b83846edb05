"""Sliding windows, the vision models beside CLIP, and TIPSv2: each against what its own library computes."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from segray.models.annotators import registry
from segray.models.clip.model import ClipModel, build_clip, build_text_clip
from segray.models.clip.tipsv2 import CONTEXT, tips_features
from segray.models.clip.vision import open_proxy
from segray.models.clip.windowed import windowed_features, windows_for
from segray.models.clip.windows import Sliding, over_windows, sliding
from segray.models.masks import segment_from_mask
from segray.models.weights import Checkpoint, WeightsError, load_state_dict
from tests.models.annotators.tiny import write_weights
from tests.models.clip.tiny_tips import ARCH as TIPS_ARCH
from tests.models.clip.tiny_tips import save_tips

INSTALLED = registry.MASK_MODELS["eomt_large"]
ARCH = {"embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": 32}
TOWER = "vit_tiny_patch16_224"


def save_tower(path: Path, name: str = TOWER, arch: dict[str, Any] = ARCH, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    state = timm.create_model(name, pretrained=False, num_classes=0, **arch).state_dict()
    state = {key: value + 0.1 * torch.randn_like(value) for key, value in state.items()}
    save_file(state | {"head.weight": torch.zeros(2, 2)}, path, {"segray": json.dumps({"arch": arch})})
    return path


@pytest.mark.parametrize(
    ("size", "resized"),
    [((10, 10), (48, 48)), ((30, 20), (72, 48)), ((20, 31), (48, 80)), ((1, 99), (48, 384))],
)
def test_the_short_side_is_one_window(size: tuple[int, int], resized: tuple[int, int]) -> None:
    windows = sliding(50, (16, 8), 8, 1 / 3)
    assert windows == Sliding(48, 16, 8)
    assert windows.size_of(*size) == resized
    corners = windows.corners(*resized)
    covered = np.zeros(resized, int)
    for y, x in corners:
        assert y % 8 == x % 8 == 0
        covered[y : y + 48, x : x + 48] += 1
    assert covered.min() == 1
    assert covered.shape == resized


def test_published_windows() -> None:
    assert sliding(336, (16, 8), 8, 1 / 3) == Sliding(336, 112, 8)
    assert sliding(336, (16, 14), 14, 1 / 3) == Sliding(336, 112, 14)
    assert sliding(448, (14,), 14, 3 / 4) == Sliding(448, 336, 14)
    with pytest.raises(ValueError, match=r"^a window of 100 px is too small: patches of 16 and 14 px need 1"):
        sliding(100, (16, 14), 14, 1 / 3)


def test_windows_are_averaged_where_they_overlap() -> None:
    """The features of a cell are those of its windows: here each window says where it begins."""
    image = torch.zeros(3, 8, 14)

    def begins(batch: Tensor, corners: list[tuple[int, int]]) -> Tensor:
        assert batch.shape[1:] == (3, 8, 8)
        return torch.tensor([x for _, x in corners]).float().view(-1, 1, 1, 1).expand(-1, 4, 4, 1)

    found = over_windows(image, Sliding(8, 4, 2), begins)
    assert found.shape == (4, 7, 1)
    assert found[0, :, 0].tolist() == [0, 0, 2, pytest.approx(10 / 3), 5, 5, 6]


@torch.no_grad()
def test_a_timm_tower_gives_q_plus_k_or_its_last_tokens(tmp_path: Path) -> None:
    tower = open_proxy(TOWER, str(save_tower(tmp_path / "tower.safetensors")))
    network: Any = tower._network  # type: ignore[attr-defined]
    image = torch.rand(3, 48, 64)
    caught: list[Tensor] = []
    hook = network.blocks[-1].attn.qkv.register_forward_hook(lambda _, __, out: caught.append(out))
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    tokens = network.forward_features(((image - mean) / std)[None, :, :, 16:])
    hook.remove()
    q, k, _ = caught[0][0, 1:].chunk(3, -1)
    corners = [(0, 0), (0, 16)]
    keys = tower.features(image, corners, 48, keys=True)
    assert keys.shape == (2, 3, 3, 24)
    torch.testing.assert_close(keys[1].flatten(0, 1), F.normalize(q + k, dim=-1), rtol=1e-4, atol=1e-5)
    last = tower.features(image, corners, 48, keys=False)
    torch.testing.assert_close(
        last[1].flatten(0, 1), F.normalize(tokens[0, 1:], dim=-1), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_a_tower_that_is_no_transformer(tmp_path: Path) -> None:
    arch: dict[str, Any] = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    path = save_tower(tmp_path / "conv.safetensors", "convnext_atto", arch)
    tower = open_proxy("convnext_atto", str(path))
    assert tower.unit == 32
    for keys in (True, False):
        found = tower.features(torch.rand(3, 64, 96), [(0, 0), (0, 32)], 64, keys=keys)
        assert found.shape == (2, 2, 2, 16)
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 2, 2))


@pytest.mark.parametrize("name", ["builtin", "sam2.1_hiera_tiny", "sam_hq_vit_b"])
@torch.no_grad()
def test_sams_embedding_covers_the_image_without_its_padding(name: str, tmp_path: Path) -> None:
    """A bright half of a 2:1 image differs from the dark one exactly where it lies."""
    weights = None if name == "builtin" else str(write_weights(tmp_path, name, seed=3))
    tower = open_proxy(name, weights)
    image = torch.zeros(3, 64, 128)
    image[:, :, 64:] = 1
    found = tower.features(image, [(0, 0), (0, 64)], 64, keys=True)
    assert found.shape[:3] == (2, 8, 8)
    dark, bright = found[0, :, :6].flatten(0, 1), found[1, :, 2:].flatten(0, 1)
    assert (dark @ dark.T).mean() > (dark @ bright.T).mean() + 0.1
    assert (bright @ bright.T).mean() > (dark @ bright.T).mean() + 0.1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "vit_base_patch9_224.dino",
            r"unknown clip\.proxy 'vit_base_patch9_224\.dino'; did you mean vit_base",
        ),
        ("eomt_large", r"clip\.proxy=eomt_large has no image embedding"),
        (
            "vit_tiny_patch16_224.nothing",
            r"clip\.proxy=vit_tiny_patch16_224\.nothing: Invalid pretrained tag",
        ),
    ],
)
def test_a_model_that_cannot_guide(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        open_proxy(name)


@pytest.mark.parametrize("load", [True, False])
def test_weights_that_do_not_fit(load: bool, tmp_path: Path) -> None:
    other = save_tower(tmp_path / "other.safetensors", arch={**ARCH, "depth": 2})
    save_file({"a": torch.zeros(2)}, tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit clip\.proxy=vit_small_patch16_224: .*parameters"):
        open_proxy("vit_small_patch16_224", str(tmp_path / "small.safetensors"), load=load)
    save_file(
        {**{f"x{i}": torch.zeros(9999) for i in range(9)}, "norm.bias": torch.zeros(24)},
        tmp_path / "few.safetensors",
        {"segray": json.dumps({"arch": ARCH})},
    )
    with pytest.raises(WeightsError, match=r"few\.safetensors does not fit .*: cls_token is missing"):
        open_proxy(TOWER, str(tmp_path / "few.safetensors"), load=load)
    assert open_proxy(TOWER, str(other), load=load).unit == 16
    state = load_file(str(other))
    state["norm.bias"] = torch.zeros(25)
    save_file(state, tmp_path / "shape.safetensors", {"segray": json.dumps({"arch": {**ARCH, "depth": 2}})})
    with pytest.raises(WeightsError, match=r"shape\.safetensors does not fit .*loading state_dict for Vis"):
        open_proxy(TOWER, str(tmp_path / "shape.safetensors"), load=load)


def in_half(path: Path) -> str:
    """The same file in float16, a type that whoever uses the values changes."""
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key).half() for key in file.keys()}  # noqa: SIM118
        save_file(state, path.with_name("half.safetensors"), file.metadata())
    return str(path.with_name("half.safetensors"))


def test_a_check_leaves_a_towers_values_in_its_file(tmp_path: Path) -> None:
    path = in_half(save_tower(tmp_path / "tower.safetensors"))
    checked, loaded = (open_proxy(TOWER, path, load=load) for load in (False, True))
    types = [
        {(p.dtype, p.device.type) for p in tower._network.parameters()}  # type: ignore[attr-defined]
        for tower in (checked, loaded)
    ]
    assert types == [{(torch.float16, "cpu")}, {(torch.float32, "cpu")}]
    assert (checked.name, checked.unit, checked.checkpoint) == (loaded.name, loaded.unit, loaded.checkpoint)
    sam = [open_proxy("builtin", load=load) for load in (False, True)]
    assert [tower._model is None for tower in sam] == [True, False]  # type: ignore[attr-defined]
    assert sam[0].checkpoint == sam[1].checkpoint


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"checkpoint_path": "/etc/hostname"}, r"its arch\.checkpoint_path must be a number up to 65536$"),
        ({"depth": 2000}, r"its architecture has \d+ parameters or more, and the file far fewer$"),
    ],
)
def test_the_architecture_of_somebody_elses_tower(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    """timm takes other files of weights by these arguments."""
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2000)}, path, {"segray": json.dumps({"arch": {**ARCH, **change}})})
    with pytest.raises(WeightsError, match=why):
        open_proxy(TOWER, str(path))


def test_a_model_of_an_installed_package_guides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MASK_MODELS", dict(registry.MASK_MODELS))
    point = EntryPoint("mine", f"{__name__}:INSTALLED", registry.GROUP)
    monkeypatch.setattr(registry, "_installed", lambda _: {"mine": point})
    with pytest.raises(ValueError, match=r"^clip\.proxy=mine has no image embedding"):
        open_proxy("mine")


def with_proxy(tmp_path: Path) -> ClipModel:
    tower = open_proxy(TOWER, str(save_tower(tmp_path / "tower.safetensors")))
    return replace(build_clip("builtin"), proxy=tower)


@pytest.mark.parametrize("features", ["corr", "proxy"])
def test_an_image_has_features_at_its_own_proportions(features: str, tmp_path: Path) -> None:
    clip = with_proxy(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    found = windowed_features(clip, features, image, side=64)
    assert found.shape == (4, 6, 64)
    assert windows_for(clip, features, 64) == Sliding(64, 16, 16)
    assert windows_for(clip, features, None) == Sliding(336, 112, 16)


def test_segments_refer_to_the_whole_image(tmp_path: Path) -> None:
    """A reduced copy of the image with the segments of the original: the regions lie in the same place."""
    clip = with_proxy(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    left = np.zeros((64, 64), bool)
    left[:, :32] = True
    doubled = segment_from_mask(left.repeat(2, 0).repeat(2, 1))
    plain = windowed_features(clip, "corr", image, side=64, segments=[segment_from_mask(left)])
    large = windowed_features(clip, "corr", image, side=64, segments=[doubled], size=(128, 128))
    torch.testing.assert_close(plain, large, rtol=0, atol=0)
    assert (windowed_features(clip, "corr", image, side=64) - plain).abs().max() > 1e-3


def test_features_and_model_belong_together(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^clip\.features=tipsv2 is not possible with clip\.model=builtin: "
    ):
        windows_for(build_clip("builtin"), "tipsv2", None)
    tips = build_clip("tipsv2_b14", str(save_tips(tmp_path)))
    for features in ("gem", "corr"):
        with pytest.raises(ValueError, match=rf"features={features} is not possible with .*=tipsv2_b14"):
            windows_for(tips, features, None)
    assert windows_for(tips, "tipsv2", None) == Sliding(448, 336, 14)
    assert windowed_features(tips, "tipsv2", np.zeros((50, 77, 3), np.uint8), side=56).shape == (4, 7, 32)


@torch.no_grad()
def test_tipsv2_keeps_each_patchs_values_in_its_last_layer(tmp_path: Path) -> None:
    """Reference: transformers' own tower, whose last attention is replaced by its values alone."""
    visual = build_clip("tipsv2_b14", str(save_tips(tmp_path))).model.visual
    images = torch.rand(2, 3, 42, 56)
    found = tips_features(visual, images)
    attention = visual.encoder.layer[-1].attention

    class Values(torch.nn.Module):
        def forward(self, hidden: Tensor, **_: Any) -> tuple[Tensor, None]:
            return attention.o_proj(attention.v_proj(hidden)), None

    visual.encoder.layer[-1].attention = Values()
    tokens = visual(pixel_values=images).last_hidden_state
    expected = F.normalize(tokens[:, 2:], dim=-1).reshape(2, 3, 4, 32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_tipsv2_embeds_texts_as_transformers_does(tmp_path: Path) -> None:
    clip = build_text_clip("tipsv2_b14", str(save_tips(tmp_path)))
    tokens = clip.tokenizer(["a photo of a tree", "sun"])
    assert tokens.shape == (2, CONTEXT)
    assert (tokens[:, -1] == 0).all()
    assert (tokens[0] != 0).sum() > (tokens[1] != 0).sum() > 0
    network = clip.model.network
    short = tokens[1:, : int((tokens[1] != 0).sum())]
    alone = network.get_text_features(input_ids=short, attention_mask=torch.ones_like(short)).pooler_output
    torch.testing.assert_close(clip.model.encode_text(tokens)[1:], alone, rtol=1e-5, atol=1e-5)
    assert clip.model.logit_scale.exp().item() == pytest.approx(1 / float(network.temperature), rel=1e-5)


def test_names_are_embedded_without_the_image_towers_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, Tensor]] = []

    def read(checkpoint: Checkpoint, *, mapped: bool = False) -> dict[str, Tensor]:
        assert mapped
        states.append(load_state_dict(checkpoint, mapped=mapped))
        return states[-1]

    path = save_tips(tmp_path)
    whole = build_clip("tipsv2_b14", str(path))
    monkeypatch.setattr("segray.models.annotators.transformers_weights.load_state_dict", read)
    text = build_text_clip("tipsv2_b14", str(path))
    for key, value in text.model.visual.state_dict().items():
        assert value.data_ptr() == states[0][f"vision_model.{key}"].data_ptr()
    tokens = text.tokenizer(["a tree"])
    assert torch.equal(whole.model.encode_text(tokens), text.model.encode_text(tokens))
    assert text.model.logit_scale == whole.model.logit_scale
    assert windows_for(text, "tipsv2", None) == windows_for(whole, "tipsv2", None)


def test_names_are_embedded_in_float32_whatever_the_file_has(tmp_path: Path) -> None:
    path = in_half(save_tips(tmp_path))
    whole, text = build_clip("tipsv2_b14", path), build_text_clip("tipsv2_b14", path)
    tokens = text.tokenizer(["a tree"])
    assert torch.equal(whole.model.encode_text(tokens), text.model.encode_text(tokens))


def test_tipsv2_without_its_tokenizer(tmp_path: Path) -> None:
    weights = save_tips(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match=r"^no tokenizer \(tokenizer\.json or tokenizer\.model\) beside "):
        build_clip("tipsv2_b14", str(weights))


def test_tipsv2_with_a_temperature_that_is_none(tmp_path: Path) -> None:
    weights = save_tips(tmp_path)
    state = load_file(weights) | {"temperature": torch.tensor(0.0)}
    save_file(state, weights, {"segray": json.dumps({"arch": TIPS_ARCH})})
    with pytest.raises(WeightsError, match=r"tips\.safetensors: its temperature is 0 \(allowed: above 0\)$"):
        build_clip("tipsv2_b14", str(weights))
