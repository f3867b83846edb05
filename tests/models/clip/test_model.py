from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from segray.models import weights
from segray.models.clip.gem import check_features, dense_features
from segray.models.clip.model import ClipModel, build_clip, build_text_clip, preprocess, resampled_in_float
from segray.models.clip.weights import OPENAI_MEAN, OPENAI_STD, find_weights
from segray.models.weights import WeightsError
from tests.models.clip.tiny_clip import TINY_ARCH, save_builtin, tiny_clip

TINY = "ViT-tiny"
Build = Callable[..., ClipModel]
BUILDERS = pytest.mark.parametrize("build", [build_clip, build_text_clip])


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip knows the tiny model, without QuickGELU, and a tag of it that was trained with QuickGELU."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, TINY, copy.deepcopy(TINY_ARCH))
    tag = {
        "url": "",
        "hf_hub": "timm/tiny.openai/",
        "quick_gelu": True,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.1),
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, TINY, {"openai": tag})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the Hugging Face hub: owner/repo/filename."""

    def download(repo: str, filename: str, **_: Any) -> str:
        path = tmp_path / "hub" / repo / filename
        if not path.is_file():
            raise FileNotFoundError(f"404 {repo}/{filename}")
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return tmp_path / "hub"


def put(folder: Path, name: str, model: nn.Module) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(dict(model.state_dict()), path)
    else:
        torch.save(model.state_dict(), path)
    return path


def same_outputs(built: Any, original: Any) -> bool:
    images, texts = torch.randn(1, 3, 32, 32), torch.randint(0, 40000, (2, 16))
    with torch.no_grad():
        pairs = [(m.encode_image(images), m.encode_text(texts)) for m in (built, original)]
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*pairs, strict=True))


def same_texts(one: Any, other: Any) -> bool:
    texts = torch.randint(0, 40000, (3, 16))
    with torch.no_grad():
        return torch.equal(one.encode_text(texts), other.encode_text(texts))


def test_the_text_tower_alone_embeds_the_same_and_knows_the_image_tower(tmp_path: Path) -> None:
    path = str(save_builtin(tiny_clip(), tmp_path / "clip.safetensors"))
    whole, text = build_clip("builtin", path), build_text_clip("builtin", path)
    assert same_texts(text.model, whole.model)
    assert torch.equal(text.model.logit_scale, whole.model.logit_scale)
    assert (text.image_size, text.depth, text.checkpoint) == (whole.image_size, whole.depth, whole.checkpoint)
    assert {p.device.type for p in text.model.visual.parameters()} == {"meta"}
    assert not text.model.training
    assert not any(p.requires_grad for p in text.model.parameters())
    assert check_features(text.model.visual, (64, 32), depth=3) == (8, 4)


def test_a_file_of_the_format_before_archives(registered: None, tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(tiny_clip().state_dict(), path, _use_new_zipfile_serialization=False)
    assert same_texts(build_text_clip(TINY, str(path)).model, build_clip(TINY, str(path)).model)


def test_the_builtin_from_its_file(tmp_path: Path) -> None:
    original = tiny_clip().half().float()
    path = save_builtin(original, tmp_path / "clip.safetensors")
    clip = build_clip("builtin", str(path))
    assert same_outputs(clip.model, original)
    assert clip.image_size == 256
    assert (clip.mean, clip.std) == (OPENAI_MEAN, OPENAI_STD)
    assert clip.checkpoint == weights.resolve(str(path))
    assert clip.tokenizer(["a tree", "two fish"]).shape == (2, 16)
    assert not clip.model.training
    assert not any(p.requires_grad for p in clip.model.parameters())


def test_the_builtin_clip_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_builtin(tiny_clip(), tmp_path / "clip.safetensors")
    monkeypatch.setattr(weights, "BUILTIN_FOLDER", tmp_path)
    clip = build_clip("builtin", None)
    assert clip.name == "builtin"
    assert clip.checkpoint.path.parent == tmp_path


@pytest.mark.parametrize("layout", ["plain", "wrapped", "module", "openai", "logit_scale_1d", "safetensors"])
def test_every_layout_of_a_local_file(registered: None, tmp_path: Path, layout: str) -> None:
    original = tiny_clip()
    state: dict[str, Any] = dict(original.state_dict())
    if layout == "module":
        state = {f"module.{key}": value for key, value in state.items()}
    elif layout == "openai":
        state |= {"input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49408)}
        state |= {"context_length": torch.tensor(16)}
    elif layout == "logit_scale_1d":
        state["logit_scale"] = state["logit_scale"].reshape(1)
    path = tmp_path / ("a.safetensors" if layout == "safetensors" else "a.pt")
    if layout == "safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": state} if layout in ("wrapped", "module") else state, path)
    clip = build_clip(TINY, str(path))
    assert same_outputs(clip.model, original)
    assert (clip.mean, clip.std) == (OPENAI_MEAN, OPENAI_STD)
    assert same_texts(build_text_clip(TINY, str(path)).model, clip.model)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_tag_brings_its_activation_mean_and_std(registered: None, hub: Path, name: str) -> None:
    original = tiny_clip(quick_gelu=True)
    put(hub / "timm/tiny.openai", name, original)
    clip = build_clip(TINY, "openai")
    assert same_outputs(clip.model, original)
    assert any(isinstance(module, QuickGELU) for module in clip.model.modules())
    assert (clip.mean, clip.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


def test_a_hub_repository_brings_its_activation_mean_and_std(registered: None, hub: Path) -> None:
    original = tiny_clip(quick_gelu=True)
    put(hub / "me/mine", "open_clip_model.safetensors", original)
    config = {
        "model_cfg": {"quick_gelu": True},
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
    }
    (hub / "me/mine/open_clip_config.json").write_text(json.dumps(config))
    clip = build_clip(TINY, "hf-hub:me/mine")
    assert same_outputs(clip.model, original)
    assert (clip.mean, clip.std) == ((0.1, 0.2, 0.3), (1, 1, 1))


def test_a_hub_file_without_a_configuration(
    registered: None, hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(hub / "me/mine", "other.bin", tiny_clip())
    assert build_clip(TINY, "hf-hub:me/mine:other.bin").mean == OPENAI_MEAN
    assert "me/mine has no open_clip_config.json: using OpenAI's mean and std" in caplog.text


@pytest.mark.parametrize(
    ("model", "tag", "quick_gelu"),
    [
        ("ViT-B-16", "openai", True),
        ("ViT-B-16-quickgelu", "openai", True),
        ("ViT-B-16", "dfn2b", True),
        ("ViT-B-16", "metaclip_400m", True),
        ("ViT-B-16", "laion2b_s34b_b88k", False),
        ("ViT-L-14", "datacomp_xl_s13b_b90k", False),
    ],
)
def test_published_tags_know_their_activation(hub: Path, model: str, tag: str, quick_gelu: bool) -> None:
    repo = open_clip.get_pretrained_cfg(model, tag)["hf_hub"].rpartition("/")[0]
    put(hub / repo, "open_clip_pytorch_model.bin", nn.Linear(1, 1))
    assert find_weights(model, tag).quick_gelu == quick_gelu


def test_offline_is_one_line_that_says_what_to_do(hub: Path) -> None:
    with pytest.raises(WeightsError, match=r"vit_base_patch16_clip_224\.openai") as caught:
        build_clip("ViT-B-16", "openai")
    assert "\n" not in str(caught.value)
    assert "local path" in str(caught.value)


@BUILDERS
@pytest.mark.parametrize(
    ("model", "given", "text"),
    [
        ("ViT-B16", "openai", "unknown CLIP model 'ViT-B16'; did you mean ViT-B-16"),
        ("hf-hub:a/b", None, "unknown CLIP model 'hf-hub:a/b'"),
        ("ViT-B-16", None, "CLIP model ViT-B-16 needs weights: one of the tags openai, .*a local file"),
        ("ViT-B-16", "opnai", "CLIP model ViT-B-16 has no weights 'opnai'; did you mean openai"),
        ("ViT-S-16", None, "CLIP model ViT-S-16 needs weights: a local file"),
        ("RN50", "openai", "CLIP model RN50 has no dense features: a ResNet"),
        ("ViT-B-16-SigLIP", "webli", "CLIP model ViT-B-16-SigLIP has no dense features: a timm tower"),
        ("coca_ViT-B-32", None, "attentional pooling"),
        ("ViT-B-16", "./nothing.pt", "nothing.pt"),
    ],
)
def test_what_cannot_be_built(build: Build, model: str, given: str | None, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        build(model, given)
    assert "\n" not in str(caught.value)


@BUILDERS
@pytest.mark.parametrize("registered_model", [TINY, "builtin"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("visual.proj"), "visual.proj"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra"),
        (lambda s: s.update({"visual.proj": torch.zeros(2, 3)}), r"visual.proj is [\[(]2, 3[\])], expected"),
    ],
)
def test_weights_that_do_not_fit(
    registered: None, tmp_path: Path, build: Build, registered_model: str, change: Any, text: str
) -> None:
    state = dict(tiny_clip().state_dict())
    change(state)
    path = tmp_path / "a.safetensors"
    save_file(state, path, {"segray": json.dumps({"arch": TINY_ARCH})})
    with pytest.raises(
        WeightsError, match=f"a.safetensors does not fit the .*model {registered_model}: .*{text}"
    ):
        build(registered_model, str(path))


class _Program(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def test_a_torchscript_archive_is_refused_and_says_what_to_do(registered: None, tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-16.pt"
    torch.jit.save(torch.jit.script(_Program()), path)
    with pytest.raises(WeightsError, match=r"TorchScript archive.*never run: use the tag openai"):
        build_clip(TINY, str(path))


def test_offline_the_default_weights_name_both_ways_to_continue(
    registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as error:
        build_clip(TINY, "openai")
    assert str(error.value) == (
        "no weights for clip.model: cannot get open_clip_model.safetensors of the Hugging Face repository "
        "timm/tiny.openai: Network is unreachable; fetch the files elsewhere and give their local "
        "paths, sam.weights=FILE clip.weights=FILE (see docs/real-models.md), or try segray offline with "
        "sam.model=builtin clip.model=builtin"
    )
    assert caplog.messages[0] == (
        "downloading open_clip_model.safetensors of the Hugging Face repository timm/tiny.openai"
    )


def test_another_file_than_expected_is_refused(registered: None, tmp_path: Path) -> None:
    path = put(tmp_path, "a.safetensors", tiny_clip())
    with pytest.raises(WeightsError, match="sha256"):
        build_clip(TINY, str(path), sha256="0" * 64)


@pytest.mark.parametrize(
    ("patch", "native", "size"), [(8, 32, 448), (14, 224, 448), (18, 224, 432), (16, 512, 512)]
)
def test_the_default_input_is_gems_in_whole_patches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, patch: int, native: int, size: int
) -> None:
    vision = {"patch_size": patch, "image_size": native // patch * patch}
    config = copy.deepcopy(TINY_ARCH)
    config["vision_cfg"] |= vision
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, TINY, config)
    path = put(tmp_path, "a.safetensors", tiny_clip(vision=vision))
    assert build_clip(TINY, str(path)).image_size == size


@pytest.mark.slow
def test_a_full_size_vit_b_16_through_its_official_format(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = open_clip.model.CLIP(**open_clip.get_model_config("ViT-B-16")).eval()
    path = tmp_path / "epoch_32.pt"
    torch.save(
        {"epoch": 32, "state_dict": {f"module.{k}": v for k, v in original.state_dict().items()}}, path
    )
    clip = build_clip("ViT-B-16", str(path))
    shutil.rmtree(tmp_path)
    images = preprocess([np.full((30, 40, 3), 99, np.uint8)], 224, clip.mean, clip.std)
    with torch.no_grad():
        torch.testing.assert_close(clip.model.encode_image(images), original.encode_image(images))
        dense = dense_features(clip.model.visual, images)
    assert dense.shape == (1, 14, 14, 512)
    assert clip.image_size == 448


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(50, 37), (200, 310), (64, 64), (1, 1), (7, 500)])
def test_preprocessing_is_pillows_bicubic(shape: tuple[int, int]) -> None:
    """GEM resamples PIL images. Each of the two passes rounds to 8 bits and may come out a level apart."""
    image = random_image(*shape)
    expected = np.asarray(Image.fromarray(image).resize((96, 64), Image.Resampling.BICUBIC), float)
    batch = preprocess([image], (64, 96), OPENAI_MEAN, OPENAI_STD)
    actual = (batch[0].permute(1, 2, 0).double().numpy() * OPENAI_STD + OPENAI_MEAN) * 255
    assert batch.shape == (1, 3, 64, 96)
    assert batch.dtype == torch.float32
    difference = np.abs(actual - expected)
    assert difference.max() < 2.01
    assert (difference > 0.01).mean() < 0.02


@pytest.mark.parametrize("shape", [(50, 37), (200, 310), (375, 500)])
def test_a_gpu_resamples_to_within_a_level(shape: tuple[int, int]) -> None:
    """Of pictures: of noise, the passes of uint8 cut off what overshoots in between."""
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(4)) * 255
    pixels = F.interpolate(coarse, shape, mode="bilinear").byte()
    expected = F.interpolate(pixels, (64, 96), mode="bicubic", antialias=True, align_corners=False)
    difference = (resampled_in_float(pixels, 64, 96) - expected.float()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.3


def test_images_of_all_sizes_make_one_batch() -> None:
    images = [random_image(20, 30, 1), random_image(90, 10, 2), random_image(64, 64, 3)]
    batch = preprocess(images, 32, OPENAI_MEAN, OPENAI_STD)
    assert batch.shape == (3, 3, 32, 32)
    for i, image in enumerate(images):
        torch.testing.assert_close(batch[i : i + 1], preprocess([image], 32, OPENAI_MEAN, OPENAI_STD))


def test_no_images_make_an_empty_batch() -> None:
    assert preprocess([], (16, 24), OPENAI_MEAN, OPENAI_STD).shape == (0, 3, 16, 24)


@pytest.mark.filterwarnings("error")
def test_a_read_only_image_is_read() -> None:
    image = random_image(8, 8)
    image.flags.writeable = False
    batch = preprocess([image[::-1]], 16, OPENAI_MEAN, OPENAI_STD)
    torch.testing.assert_close(batch, preprocess([image[::-1].copy()], 16, OPENAI_MEAN, OPENAI_STD))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((4, 4, 3)), r"uint8 \[H, W, 3\], this one is float64 \[4, 4, 3\]"),
        (np.zeros((4, 4), np.uint8), r"this one is uint8 \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"this one is uint8 \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"this one is uint8 \[0, 4, 3\]"),
    ],
)
def test_arrays_that_are_no_rgb_images(image: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        preprocess([image], 16, OPENAI_MEAN, OPENAI_STD)
