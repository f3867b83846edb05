from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from segray.models.clip.gem import clip_tokens
from segray.models.clip.model import build_clip
from segray.models.segmenters.base import resample, to_patches
from segray.models.segmenters.registry import NETWORKS, Segmenter, build_segmenter
from segray.models.segmenters.tokens import token_maps

SMALL = ["segformer_b0", "deeplabv3plus_r50", "dinov2_s_dpt", "eupe_t_dpt", "builtin", "efficientnet_lite0"]


@functools.cache
def on_meta(network: str, classes: int) -> Segmenter:
    """The network without any memory: its constructor must not look at values, nor download them."""
    with torch.device("meta"):
        return build_segmenter(network, classes, pretrained=False).eval()


def millions(module: nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 3)


def small(network: str, classes: int = 4, pretrained: bool = False) -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(network, classes, pretrained=pretrained).eval()


@pytest.mark.parametrize(
    ("network", "classes", "expected"),
    [
        ("segformer_b5", 21, 84.609),
        ("segformer_b5", 81, 84.656),
        ("deeplabv3plus_r101", 21, 59.468),
        # UniMatch V2 reports 24.8 and 97.5 M: with a mask token, and two convolutions that nothing uses.
        ("dinov2_s_dpt", 21, 24.795 - 0.074),
        ("dinov2_b_dpt", 21, 97.529 - 0.296),
    ],
)
def test_the_published_sizes(network: str, classes: int, expected: float) -> None:
    assert millions(on_meta(network, classes)) == pytest.approx(expected, abs=0.0006)


def test_the_built_in_network_is_small() -> None:
    assert millions(on_meta("builtin", 10)) < 1.2


@pytest.mark.parametrize(
    ("network", "size"),
    [(name, (65, 47)) for name in NETWORKS]
    + [(name, size) for name in (*SMALL, "clip_b16_dpt") for size in ((321, 321), (1, 1))],
)
def test_any_image_size(network: str, size: tuple[int, int]) -> None:
    segmenter = on_meta(network, 5)
    maps = segmenter.encode(torch.empty(2, 3, *size, device="meta"))
    areas = [m.shape[2] * m.shape[3] for m in maps]
    assert areas == sorted(areas, reverse=True)
    assert segmenter.decode(maps, size).shape == (2, 5, *size)
    assert segmenter.decode(maps, (7, 9)).shape == (2, 5, 7, 9)


@pytest.mark.parametrize("network", NETWORKS)
def test_encoder_and_decoder_share_nothing_and_leave_nothing(network: str) -> None:
    segmenter = on_meta(network, 5)
    encoder, decoder = ({id(p) for p in half.parameters()} for half in (segmenter.encoder, segmenter.decoder))
    assert encoder
    assert decoder
    assert not encoder & decoder
    assert encoder | decoder == {id(p) for p in segmenter.parameters()}


@pytest.mark.parametrize("network", NETWORKS)
def test_perturbed_maps_exist(network: str) -> None:
    segmenter = on_meta(network, 5)
    maps = segmenter.encode(torch.empty(1, 3, 64, 64, device="meta"))
    assert segmenter.perturbed == tuple(range(len(maps)))
    assert len(maps) == (2 if network.startswith("deeplab") else 3 if network == "builtin" else 4)
    assert len(segmenter.mean) == len(segmenter.std) == 3


@pytest.mark.parametrize("network", SMALL)
def test_forward_is_decode_of_encode(network: str) -> None:
    segmenter, images = small(network), torch.randn(1, 3, 65, 47)
    with torch.no_grad():
        logits = segmenter(images)
        assert logits.isfinite().all()
        assert torch.equal(logits, segmenter.decode(segmenter.encode(images), (65, 47)))


@pytest.mark.parametrize("network", SMALL)
def test_every_parameter_learns(network: str) -> None:
    """One that does not would stop a run on several workers."""
    segmenter = small(network).train()
    segmenter(torch.randn(2, 3, 64, 48)).square().mean().backward()
    assert [name for name, p in segmenter.named_parameters() if p.grad is None] == []


def test_segformer_compiles_without_a_break() -> None:
    segmenter, images = small("segformer_b0"), torch.randn(1, 3, 64, 64)
    compiled = torch.compile(segmenter, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(images), segmenter(images))


def test_segformer_is_that_of_transformers() -> None:
    segmenter, images = small("segformer_b0"), torch.randn(1, 3, 70, 50)
    with torch.no_grad():
        published = segmenter.encoder(images, output_hidden_states=True).hidden_states
        maps = segmenter.encode(images)
        logits = resample(segmenter.decoder(published), (70, 50))
    assert all(torch.equal(a, b) for a, b in zip(maps, published, strict=True))
    torch.testing.assert_close(segmenter.decode(maps, (70, 50)), logits)


@pytest.mark.parametrize("size", [(64, 96), (70, 50)])
def test_eupe_is_timm_s_transformer(size: tuple[int, int]) -> None:
    segmenter, images = small("eupe_t_dpt"), torch.randn(2, 3, *size)
    encoder: Any = segmenter.encoder
    torch.nn.init.normal_(encoder.reg_token)
    for block in encoder.blocks:
        block.gamma_1.data.fill_(0.5)
    with torch.no_grad():
        maps = segmenter.encode(images)
        expected = encoder.forward_intermediates(
            to_patches(images, 16), indices=[2, 5, 8, 11], norm=True, intermediates_only=True
        )
        turned = segmenter.encode(images.flip(3))
    for own, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)
    assert (turned[-1].flip(3) - maps[-1]).abs().max() > 1e-2


def test_a_timm_without_the_encoder_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.is_model", lambda name: False)
    with pytest.raises(
        ValueError, match=r"^timm \S+ has no vit_tiny_patch16_dinov3_qkvb: pip install -U timm$"
    ):
        build_segmenter("eupe_t_dpt", 4, pretrained=False)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_documentation_names_each_network_with_its_size_and_licence(network: str) -> None:
    entry, encoder = NETWORKS[network], on_meta(network, 2).encoder
    row = f"| `{network}` | {millions(encoder):.1f} M | {entry.licence} | `{entry.weights}` |"
    assert row in (Path(__file__).parents[3] / "docs" / "train.md").read_text()


def test_the_built_in_network_treats_each_image_alone() -> None:
    """In training mode as well: that is what lets several workers compute what one computes."""
    segmenter, images = small("builtin", pretrained=True).train(), torch.randn(3, 3, 80, 64)
    with torch.no_grad():
        together, alone = segmenter(images), segmenter(images[1:2])
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in segmenter.modules())
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_the_built_in_network_starts_undecided_from_the_built_in_clip() -> None:
    segmenter, clip = small("builtin", pretrained=True), build_clip("builtin")
    own, theirs = segmenter.encoder.state_dict(), clip.model.visual.state_dict()
    assert theirs.keys() - own.keys() == {"proj"}
    assert all(torch.equal(value, theirs[key]) for key, value in own.items())
    with torch.no_grad():
        shares = segmenter(torch.randn(1, 3, 64, 64)).softmax(1)
    assert shares.max() < 0.35


def test_token_maps_end_with_the_tower_s_own_tokens() -> None:
    clip = build_clip("builtin")
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        first, last = token_maps(clip.model.visual, images, (2, 7))
        tokens = clip_tokens(clip.model.visual, images)[:, 1:]
    assert first.shape == last.shape == (2, 96, 4, 6)
    assert torch.allclose(last.flatten(2).transpose(1, 2) @ clip.model.visual.proj, tokens, atol=1e-4)


def test_token_maps_follow_the_picture() -> None:
    """A patch that changes, at an odd size, changes the logits there more than far from it."""
    segmenter = small("builtin", pretrained=True)
    images = torch.zeros(1, 3, 165, 251)
    changed = images.clone()
    changed[:, :, 100:140, 180:230] = 2.0
    with torch.no_grad():
        difference = (segmenter(changed) - segmenter(images)).abs().sum(1)[0]
    assert difference[105:135, 185:225].mean() > 3 * difference[:60, :120].mean()


def test_the_built_in_network_learns_a_picture() -> None:
    segmenter = small("builtin", classes=2, pretrained=True).train()
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    labels[:, 16:40, 20:50] = 1
    images: Tensor = torch.randn(1, 3, 1, 1) + labels[:, None] * torch.randn(1, 3, 1, 1)
    optimiser = torch.optim.AdamW(segmenter.parameters(), lr=1e-3)
    for _ in range(15):
        loss = nn.functional.cross_entropy(segmenter(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (segmenter(images).argmax(1) == labels).float().mean() > 0.97


def test_resampling_leaves_fitting_maps_alone() -> None:
    maps = torch.rand(1, 2, 4, 6)
    assert resample(maps, (4, 6)) is maps


def test_importing_the_registry_loads_no_other_framework() -> None:
    """`--help` and the configuration stay fast, and SegFormer's package stays optional."""
    code = (
        "import sys, segray.models.segmenters.registry; "
        "print({'transformers', 'timm'} & set(sys.modules)"
        " | {name for name in sys.modules if name.startswith('open_clip.')})"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert shown.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("network", "backbone"),
    [
        ("dinov2_s_dpt", "vit_small_patch14_dinov2"),
        ("dinov2_b_dpt", "vit_base_patch14_dinov2"),
        ("dinov3_s_dpt", "vit_small_patch16_dinov3.lvd1689m"),
        ("dinov3_b_dpt", "vit_base_patch16_dinov3.lvd1689m"),
        ("eupe_t_dpt", "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m"),
        ("eupe_s_dpt", "vit_small_patch16_dinov3_qkvb.eupe_lvd1689m"),
        ("eupe_b_dpt", "vit_base_patch16_dinov3_qkvb.eupe_lvd1689m"),
        ("deeplabv3plus_r50", "resnet50s"),
        ("deeplabv3plus_r101", "resnet101s"),
    ],
)
def test_the_official_weights_are_timm_s_own(network: str, backbone: str) -> None:
    published = timm.get_pretrained_cfg(backbone)
    assert published is not None
    assert NETWORKS[network].weights == f"hf-hub:{published.hf_hub_id}"
    segmenter = on_meta(network, 2)
    assert (segmenter.mean, segmenter.std) == (published.mean, published.std)
