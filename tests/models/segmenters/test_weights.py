from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForImageClassification

from segray.models.segmenters.registry import NETWORKS, Segmenter, build_segmenter, check_segmenter
from segray.models.weights import WeightsError
from tests.models.clip.tiny_clip import TINY_ARCH

CLIP_NAME = "ViT-B-16-quickgelu"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The configuration of a CLIP with twelve small blocks, which open_clip takes for the large one."""
    arch: dict[str, Any] = copy.deepcopy(TINY_ARCH) | {"quick_gelu": True}
    arch["vision_cfg"]["layers"] = 12
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, CLIP_NAME, arch)
    return arch


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def mit_b0(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A classifier written by transformers itself, as NVIDIA's are, and its encoder's tensors."""
    folder = tmp_path_factory.mktemp("mit-b0")
    torch.manual_seed(1)
    model = SegformerForImageClassification(SegformerConfig())
    model.save_pretrained(folder)
    return folder / "model.safetensors", model.segformer.state_dict()


def same(encoder: nn.Module, original: dict[str, Tensor]) -> bool:
    own = encoder.state_dict()
    return all(torch.equal(value, original[key]) for key, value in own.items())


def one_line(error: pytest.ExceptionInfo[ValueError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_segformer_reads_what_transformers_writes(mit_b0: tuple[Path, dict[str, Tensor]]) -> None:
    path, original = mit_b0
    segmenter = build_segmenter("segformer_b0", 5, weights=str(path))
    assert same(segmenter.encoder, original)
    assert segmenter.training


def test_deeplab_reads_timm_s_classifier_without_counters(tmp_path: Path) -> None:
    original = timm.create_model("resnet50s").state_dict()
    original["layer1.0.bn1.running_mean"] += 0.5
    stored = {key: value for key, value in original.items() if "num_batches" not in key}
    save_file(stored, tmp_path / "model.safetensors")
    segmenter = build_segmenter("deeplabv3plus_r50", 5, weights=str(tmp_path / "model.safetensors"))
    assert same(segmenter.encoder, original)


def test_dinov2_reads_meta_s_own_file(tmp_path: Path) -> None:
    original = timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict()
    torch.save({**original, "mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2.pth")
    segmenter = build_segmenter("dinov2_s_dpt", 5, weights=str(tmp_path / "dinov2.pth"))
    assert same(segmenter.encoder, original)


def test_eupe_reads_timm_s_own_file(tmp_path: Path) -> None:
    original = timm.create_model("vit_tiny_patch16_dinov3_qkvb", num_classes=0).state_dict()
    save_file(original, tmp_path / "model.safetensors")
    segmenter = build_segmenter("eupe_t_dpt", 5, weights=str(tmp_path / "model.safetensors"))
    assert same(segmenter.encoder, original)


def test_clip_reads_a_whole_clip(tmp_path: Path, tiny: dict[str, Any]) -> None:
    clip = CLIP(**tiny)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    segmenter = build_segmenter("clip_b16_dpt", 5, weights=str(tmp_path / "clip.pt")).eval()
    assert same(segmenter.encoder, clip.visual.state_dict())
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = clip.eval().visual.forward_intermediates(
            images, indices=[2, 5, 8, 11], normalize_intermediates=True, intermediates_only=True
        )
        maps = segmenter.encode(images)
    for own, theirs in zip(maps, expected["image_intermediates"], strict=True):
        assert torch.allclose(own, theirs, atol=1e-5)


def test_a_file_without_an_image_tower_says_what_it_holds() -> None:
    with pytest.raises(WeightsError, match=r"expected visual\.\S+ \(103 missing\), found \S+ \(") as error:
        build_segmenter("builtin", 5, weights="builtin:sam")
    assert "sam.safetensors" in one_line(error)


def test_a_check_loads_no_network_for_official_weights_and_compares_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def build(classes: int) -> Segmenter:
        raise AssertionError("it is built")

    entry = NETWORKS["dinov2_s_dpt"]
    official = tmp_path / "official.safetensors"
    save_file({"x": torch.zeros(1)}, official)
    monkeypatch.setitem(NETWORKS, "dinov2_s_dpt", replace(entry, build=build, weights=str(official)))
    check_segmenter("dinov2_s_dpt", 5)
    with pytest.raises(AssertionError, match="it is built"):
        check_segmenter("dinov2_s_dpt", 5, weights=str(official))
    official.write_bytes(official.read_bytes()[:20])
    with pytest.raises(WeightsError, match=r"official\.safetensors is damaged"):
        check_segmenter("dinov2_s_dpt", 5)
    check_segmenter("dinov2_s_dpt", 5, pretrained=False)
    with pytest.raises(ValueError, match="unknown network 'dino'"):
        check_segmenter("dino", 5)


def test_clip_knows_open_clip_s_tags(offline: None) -> None:
    with pytest.raises(ValueError, match="did you mean openai") as error:
        build_segmenter("clip_b16_dpt", 5, weights="opnai")
    one_line(error)


@pytest.mark.parametrize(
    ("network", "repository"),
    [
        ("segformer_b0", "nvidia/mit-b0"),
        ("deeplabv3plus_r50", "timm/resnet50s.gluon_in1k"),
        ("dinov2_s_dpt", "timm/vit_small_patch14_dinov2.lvd142m"),
        ("eupe_t_dpt", "timm/vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m"),
        ("clip_b16_dpt", "timm/vit_base_patch16_clip_224.openai"),
    ],
)
def test_offline_says_in_one_line_what_to_do(
    network: str, repository: str, offline: None, tiny: dict[str, Any]
) -> None:
    with pytest.raises(WeightsError) as error:
        build_segmenter(network, 5)
    text = one_line(error)
    assert repository in text
    assert "give its local path as the weights" in text


def test_a_repository_may_hold_either_format(
    mit_b0: tuple[Path, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repo: str, filename: str, **_: Any) -> str:
        asked.append(filename)
        if filename != "pytorch_model.bin":
            raise FileNotFoundError(f"404 {repo}/{filename}")
        return str(tmp_path / filename)

    torch.save(load_file(mit_b0[0]), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert same(build_segmenter("segformer_b0", 5).encoder, mit_b0[1])
    assert asked == ["model.safetensors", "pytorch_model.bin"]
    with pytest.raises(WeightsError, match=r"cannot get other\.bin of"):
        build_segmenter("segformer_b0", 5, weights="hf-hub:nvidia/mit-b0:other.bin")


def test_without_pretraining_nothing_is_looked_for(offline: None) -> None:
    segmenter = build_segmenter("segformer_b0", 5, weights="/no/such/file", pretrained=False)
    assert segmenter(torch.randn(2, 3, 40, 40)).shape == (2, 5, 40, 40)


@pytest.mark.parametrize("network", NETWORKS)
def test_constructors_download_nothing(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a constructor went online")

    for name in (
        "huggingface_hub.hf_hub_download",
        "socket.socket.connect",
        "urllib.request.OpenerDirector.open",
    ):
        monkeypatch.setattr(name, refuse)
    with torch.device("meta"):
        assert NETWORKS[network].build(3).encoder is not None


def changed(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    first = "segformer.encoder.patch_embeddings.0.proj.weight"
    if how == "reshaped":
        return {**state, first: torch.zeros(64, 3, 7, 7)}
    if how == "cut":
        return {key: value for key, value in state.items() if key != first}
    if how == "longer":
        return {**state, "segformer.encoder.block.0.2.mlp.dense1.weight": torch.zeros(1)}
    return {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(10, 64)}


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("reshaped", r"proj\.weight is \[64, 3, 7, 7\], expected \[32, 3, 7, 7\] \(1 such\)"),
        (
            "cut",
            r"expected segformer\.encoder\.patch_embeddings\.0\.proj\.weight \(1 missing\)$",
        ),
        (
            "longer",
            r": found segformer\.encoder\.block\.0\.2\.mlp\.dense1\.weight \(1 unexpected\)$",
        ),
        ("other", r"expected segformer\.\S+ \(\d+ missing\), found conv1\.weight \(2 unexpected\)"),
    ],
)
def test_weights_of_another_network(
    mit_b0: tuple[Path, dict[str, Tensor]], tmp_path: Path, how: str, text: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(changed(load_file(mit_b0[0]), how), path)
    with pytest.raises(WeightsError, match=text) as error:
        build_segmenter("segformer_b0", 5, weights=str(path))
    assert one_line(error).startswith(f"{path} does not fit the encoder of segformer_b0: ")


@pytest.mark.parametrize(
    ("network", "classes", "text"),
    [
        ("segformer_b6", 5, r"unknown network 'segformer_b6'; did you mean segformer_b\d\? \(there are "),
        ("xyz", 5, r"unknown network 'xyz' \(there are segformer_b0, .*builtin\)"),
        ("builtin", 1, "a network needs at least 2 classes, background included, not 1"),
    ],
)
def test_what_cannot_be_built(network: str, classes: int, text: str) -> None:
    with pytest.raises(ValueError, match=text) as error:
        build_segmenter(network, classes)
    one_line(error)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.models.segformer", None)
    with pytest.raises(ValueError, match=r'pip install "segray\[segformer\]"') as error:
        build_segmenter("segformer_b0", 5)
    one_line(error)


def test_an_old_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.segformer import modeling_segformer

    monkeypatch.delattr(modeling_segformer, "SegformerStage")
    with pytest.raises(ValueError, match=r"needs transformers 5\.23 or newer"):
        build_segmenter("segformer_b0", 5)
