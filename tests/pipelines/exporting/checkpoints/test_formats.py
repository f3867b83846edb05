"""Each format computes what the network computes, for each family of networks."""

from __future__ import annotations

import pytest
import torch

from segray.models.recording import resample_bicubic
from segray.models.segmenters.portable import PortableNetwork
from segray.models.segmenters.registry import Segmenter, build_segmenter
from tests.models.segmenters.tiny_segmenter import tiny_segmenter
from tests.pipelines.exporting.checkpoints.readers import GRAPHS, check_equal

SLOW = dict.fromkeys(("onnx", "torch-export"), pytest.mark.slow)
FAMILIES = [
    "builtin",
    "deeplabv3plus_r50",
    "segformer_b0",
    "dinov2_s_dpt",
    "eupe_t_dpt",
    "clip_b16_dpt",
    "efficientnet_lite0",
]


def loud(network: Segmenter) -> Segmenter:
    """Random heads have logits near zero; here a difference would be seen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "classifier" in name and value.ndim > 1:
                value.normal_(std=0.5)
    return network.eval()


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in GRAPHS])
def test_a_small_network_is_the_same_in_each_format(name: str) -> None:
    check_equal(tiny_segmenter(), name, "float32")


def test_the_built_in_network_is_the_same_in_torchscript() -> None:
    check_equal(loud(build_segmenter("builtin", 4, pretrained=False)), "torchscript")


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_the_same_in_each_format(family: str, name: str) -> None:
    check_equal(loud(build_segmenter(family, 4, pretrained=False)), name)


def test_pixels_of_another_type_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^images must be uint8 \[N, 3, H, W\] in 0\.\.255, not torch.float32"
    ):
        PortableNetwork(tiny_segmenter())(torch.rand(1, 3, 40, 40))


@pytest.mark.parametrize("size", [(14, 14), (9, 20), (33, 3), (1, 2)])
def test_bicubic_resampling_by_matrices_is_torch_s(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    grid = torch.randn(2, 5, 14, 14)
    expected = torch.nn.functional.interpolate(grid, size, mode="bicubic", antialias=True)
    torch.testing.assert_close(resample_bicubic(grid, size), expected, atol=1e-5, rtol=0)
