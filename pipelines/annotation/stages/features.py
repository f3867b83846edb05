"""Dense features of images, by the options of `clip.`; large images tile by tile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segray.models.masks import Segment
from segray.models.tiling import Tile, Tiling, clipped
from segray.pipelines.config.commands.annotate import DEFAULT_PROXY, PROXIES
from segray.pipelines.config.commands.annotate import ClipModel as ClipModelConfig

if TYPE_CHECKING:  # torch and open_clip take seconds to import
    from torch import Tensor

    from segray.models.clip.model import ClipModel
    from segray.models.clip.tiled import TileFeatures

Image = NDArray[np.uint8]
Size = tuple[int, int]


def tile_features(
    clip: ClipModel,
    config: ClipModelConfig,
    tiling: Tiling | None,
    images: list[Image],
    segments: list[list[Segment]] | None,
    sizes: list[Size],
) -> list[list[TileFeatures]]:
    """The features of each image's tiles; an image that is not tiled is one tile.

    Args:
        clip: the model.
        config: its options.
        tiling: of large images, which must not be reduced copies; None: of none.
        images: uint8 RGB [H, W, 3] each.
        segments: of each image; None: there are none.
        sizes: (height, width) that the segments refer to.

    Raises:
        ValueError: options that the model does not support.
    """
    from segray.models.clip.tiled import TileFeatures

    large = [i for i, size in enumerate(sizes) if tiling and tiling.divides(*size)]
    small = [i for i in range(len(images)) if i not in large]
    found: dict[int, list[TileFeatures]] = {}
    if small:
        of_small = [segments[i] for i in small] if segments else None
        grids = clip_features(clip, config, [images[i] for i in small], of_small, [sizes[i] for i in small])
        found |= {i: [TileFeatures(_whole(sizes[i]), grid)] for i, grid in zip(small, grids, strict=True)}
    for i in large:
        assert tiling is not None
        tiles = tiling.tiles(*sizes[i])
        found[i] = [_tile(clip, config, tile, images[i], segments[i] if segments else None) for tile in tiles]
    return [found[i] for i in range(len(images))]


def _whole(size: Size) -> Tile:
    box = (0, 0, size[1], size[0])
    return Tile(0, 0, box, box)


def _tile(
    clip: ClipModel, config: ClipModelConfig, tile: Tile, image: Image, segments: list[Segment] | None
) -> TileFeatures:
    from segray.models.clip.tiled import TileFeatures

    parts = None if segments is None else [[part for _, part in clipped(segments, tile.box, tile.box)]]
    return TileFeatures(tile, clip_features(clip, config, [image[tile.inside]], parts)[0])


def load_clip(config: ClipModelConfig, device: str, loaded: ClipModel | None) -> ClipModel:
    """A worker's model, and the vision model beside it, on its device.

    Args:
        config: the model and its options.
        device: "cpu" or "cuda".
        loaded: the model, if it is loaded already.

    Raises:
        ValueError: weights or an option that do not fit.
    """
    from segray.models.clip.model import build_clip, move
    from segray.models.precision import resolve_precision

    clip = loaded or with_proxy(build_clip(config.model, config.weights, sha256=config.sha256), config)
    return move(clip, device, resolve_precision(config.precision, device))


def with_proxy(clip: ClipModel, config: ClipModelConfig, *, load: bool = True) -> ClipModel:
    """The CLIP with the other vision model that its features need, if they need one.

    Args:
        clip: the model.
        config: its options.
        load: False: the other model's weights are only checked.

    Raises:
        ValueError: an unknown model, or weights that cannot be had or do not fit.
    """
    if config.features not in PROXIES:
        return clip
    from segray.models.clip.vision import open_proxy

    name = config.proxy or DEFAULT_PROXY
    return replace(clip, proxy=open_proxy(name, config.proxy_weights, config.proxy_sha256, load=load))


def check_clip_options(clip: ClipModel, config: ClipModelConfig) -> None:
    """Raise what `clip_features` would raise; nothing is computed.

    Raises:
        ValueError: options that the model does not support.
    """
    from segray.models.clip.gem import check_features
    from segray.models.clip.tipsv2 import TipsV2
    from segray.models.clip.windowed import WINDOWED, windows_for

    if config.features in WINDOWED or isinstance(clip.model, TipsV2):
        windows_for(clip, config.features, config.image_size)
        return
    size = config.image_size or clip.image_size
    check_features(clip.model.visual, (size, size), **_feature_options(clip, config))


def clip_features(
    clip: ClipModel,
    config: ClipModelConfig,
    images: list[NDArray[np.uint8]],
    segments: list[list[Segment]] | None = None,
    sizes: list[tuple[int, int]] | None = None,
) -> list[Tensor]:
    """Dense features [h, w, D] of each image.

    On a CPU one image at a time, so that no image's features depend on its batch.

    Args:
        clip: the model.
        config: its options.
        images: uint8 RGB [H, W, 3] each.
        segments: of each image, for features that look at them; None: there are none.
        sizes: (height, width) that the segments refer to; None: those of the images.

    Raises:
        ValueError: options that the model does not support.
    """
    from segray.models.clip.windowed import WINDOWED, windowed_features

    if config.features in WINDOWED:
        unknown: list[None] = [None] * len(images)
        parts = zip(images, segments or unknown, sizes or unknown, strict=True)
        return [
            windowed_features(
                clip, config.features, image, side=config.image_size, segments=of_image, size=size
            )
            for image, of_image, size in parts
        ]
    return list(_plain_features(clip, config, images))


def _plain_features(clip: ClipModel, config: ClipModelConfig, images: list[NDArray[np.uint8]]) -> Tensor:
    import torch

    from segray.models.clip.gem import dense_features
    from segray.models.clip.model import preprocess

    size = config.image_size or clip.image_size
    step = 1 if clip.device.type == "cpu" else len(images)
    options = _feature_options(clip, config)
    with torch.inference_mode():
        batches = (
            preprocess(images[start : start + step], size, clip.mean, clip.std, clip.device)
            for start in range(0, len(images), step)
        )
        return torch.cat([dense_features(clip.model.visual, batch, **options) for batch in batches])


def _feature_options(clip: ClipModel, config: ClipModelConfig) -> dict[str, Any]:
    options = config.model_dump(include={"features", "iterations", "temperature"})
    return {**options, "depth": config.depth or clip.depth}
