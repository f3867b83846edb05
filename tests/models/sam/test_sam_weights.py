from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segment_anything
import torch
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from torch import Tensor

from segray.models import weights
from segray.models.annotators.loading import check_model
from segray.models.builtin.arch import SAM_ARCH, build_builtin_sam
from segray.models.sam.generator import SAM_MODELS, MaskGenerator, build_sam
from segray.models.weights import WeightsError
from tests.models.sam.pictures import TINY_ARCH, scene


def save_builtin(path: Path, arch: dict[str, int] | None) -> Sam:
    torch.manual_seed(0)
    sam = build_builtin_sam(arch or SAM_ARCH)
    halves = {key: value.half().contiguous() for key, value in sam.state_dict().items()}
    save_file(halves, path, {"segray": json.dumps({"arch": arch})} if arch else None)
    return sam


@pytest.mark.parametrize("arch", [SAM_ARCH, TINY_ARCH, None])
def test_built_in_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: dict[str, int] | None
) -> None:
    saved = save_builtin(tmp_path / "sam.safetensors", arch)
    monkeypatch.setattr(weights, "BUILTIN_FOLDER", tmp_path)
    sam, checkpoint = build_sam("builtin")
    assert checkpoint.path.parent == tmp_path
    assert not sam.training
    assert sam.image_encoder.img_size == (arch or SAM_ARCH)["img_size"]
    for key, value in sam.state_dict().items():
        assert torch.equal(value, saved.state_dict()[key].half().float())
    entry = SAM_MODELS["builtin"]
    generator = MaskGenerator(sam, points_per_side=entry.points_per_side // 4)
    assert len(generator.generate([scene(40, 50)])) == 1


BUILDERS = pytest.mark.parametrize("build", [build_sam, check_model])


@BUILDERS
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("mask_decoder.iou_token.weight"), "missing: mask_decoder.iou_token.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected: extra"),
        (
            lambda s: s.update({"image_encoder.pos_embed": torch.zeros(2, 3)}),
            r"wrong shapes: image_encoder.pos_embed is \(2, 3\), expected",
        ),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, build: Callable[..., object], change: Callable[[dict[str, Tensor]], object], text: str
) -> None:
    path = tmp_path / "sam.safetensors"
    state = save_builtin(path, TINY_ARCH).state_dict()
    change(state)
    save_file(state, path, {"segray": json.dumps({"arch": TINY_ARCH})})
    with pytest.raises(WeightsError, match=f"sam.safetensors does not fit the model builtin: {text}"):
        build("builtin", str(path))


@BUILDERS
def test_a_damaged_file(tmp_path: Path, build: Callable[..., object]) -> None:
    path = tmp_path / "sam.safetensors"
    save_builtin(path, TINY_ARCH)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"sam\.safetensors is damaged"):
        build("builtin", str(path))


def test_checked_weights_are_those_that_are_built(tmp_path: Path) -> None:
    path = tmp_path / "sam.safetensors"
    save_builtin(path, TINY_ARCH)
    sam, checkpoint = build_sam("builtin", str(path))
    assert check_model("builtin", str(path)) == (sam.image_encoder.img_size, checkpoint)


@BUILDERS
def test_a_wrong_architecture_in_the_metadata(tmp_path: Path, build: Callable[..., object]) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"segray": json.dumps({"arch": {"width": 3}})})
    with pytest.raises(WeightsError, match=r"'arch' must have whole numbers for img_size, patch_size"):
        build("builtin", str(path))


def test_an_unknown_model_lists_the_known_ones() -> None:
    message = "unknown SAM model 'vit_x'; choose one of vit_b, vit_l, vit_h, builtin"
    with pytest.raises(ValueError, match=message):
        build_sam("vit_x")
    with pytest.raises(ValueError, match=r"must be one of builtin, vit_b, .*, not 'vit_x'; did you mean vit"):
        check_model("vit_x")


def test_official_weights_are_pinned_and_have_upstream_builders() -> None:
    for name in ("vit_b", "vit_l", "vit_h"):
        entry = SAM_MODELS[name]
        assert entry.source.startswith("https://dl.fbaipublicfiles.com/segment_anything/sam_" + name)
        assert entry.sha256 is not None
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert name in segment_anything.sam_model_registry


@pytest.mark.slow
def test_an_official_checkpoint_file_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = segment_anything.build_sam_vit_b().state_dict()
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(state, path)
    sam, checkpoint = build_sam("vit_b", str(path))
    assert checkpoint.path == path
    assert sam.image_encoder.img_size == 1024
    assert all(torch.equal(value, state[key]) for key, value in sam.state_dict().items())
    assert check_model("vit_b", str(path)) == (1024, checkpoint)
    with pytest.raises(WeightsError, match=r"builtin: .*image_encoder.pos_embed is \(1, 64, 64, 768\)"):
        build_sam("builtin", str(path))
    with pytest.raises(WeightsError, match=f"expected {SAM_MODELS['vit_b'].sha256}"):
        build_sam("vit_b", str(path), sha256=SAM_MODELS["vit_b"].sha256)


def test_offline_the_default_weights_name_both_ways_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", unreachable)
    monkeypatch.setenv("SEGRAY_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as error:
        build_sam("vit_b")
    url = SAM_MODELS["vit_b"].source
    assert str(error.value) == (
        f"no weights for sam.model: cannot download {url}: Network is unreachable; fetch the files elsewhere "
        "and give their local paths, sam.weights=FILE clip.weights=FILE (see docs/real-models.md), or try "
        "segray offline with sam.model=builtin clip.model=builtin"
    )
    assert caplog.messages[0].startswith(f"downloading {url} to {tmp_path}")
