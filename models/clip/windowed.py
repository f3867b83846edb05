"""Features that slide a window over an image at its own proportions: ProxyCLIP, CorrCLIP and TIPSv2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.models.clip.model import ClipModel, preprocess
from segray.models.clip.proxy import LEAST_BLOCKS, corr_features, proxy_features
from segray.models.clip.regions import region_map
from segray.models.clip.tipsv2 import INPUT, TipsV2, tips_features
from segray.models.clip.towers import check_tower
from segray.models.clip.vision import ProxyTower
from segray.models.clip.windows import Corner, Sliding, cut, over_windows, sliding
from segray.models.masks import Segment

WINDOWED = ("corr", "proxy", "tipsv2")
WINDOW = 336
"""Side of a window of `proxy` and `corr` in pixels, as published; a third of it apart."""
_STRIDE, _TIPS_STRIDE = 1 / 3, 3 / 4
_ZEROS, _ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def windows_for(clip: ClipModel, features: str, side: int | None) -> Sliding:
    """The windows of an image, after a check that the model has such features.

    Args:
        clip: the model; for `corr` and `proxy` with another vision model.
        features: of `WINDOWED`.
        side: of a window in pixels; None: as published.

    Raises:
        ValueError: the model does not have such features, or the side is too small.
    """
    tips = isinstance(clip.model, TipsV2)
    if (features == "tipsv2") != tips:
        raise ValueError(
            f"clip.features={features} is not possible with clip.model={clip.name}: {_why(tips)}"
        )
    if isinstance(clip.model, TipsV2):
        patch = clip.model.visual.config.patch_size
        return sliding(side or INPUT, (patch,), patch, _TIPS_STRIDE)
    check_tower(clip.model.visual)
    blocks = len(clip.model.visual.transformer.resblocks)
    if features == "corr" and blocks < LEAST_BLOCKS:
        raise ValueError(f"clip.features=corr needs {LEAST_BLOCKS} blocks, {clip.name} has {blocks}")
    unit = _proxy(clip).unit
    return sliding(side or WINDOW, (clip.model.visual.patch_size[0], unit), unit, _STRIDE)


def _why(tips: bool) -> str:
    if tips:
        return "a TIPSv2 has clip.features=tipsv2"
    return "tipsv2 needs clip.model=tipsv2_b14 or tipsv2_l14"


def _proxy(clip: ClipModel) -> ProxyTower:
    assert clip.proxy is not None, "opened with the model"
    return clip.proxy


@torch.inference_mode()
def windowed_features(
    clip: ClipModel,
    features: str,
    image: NDArray[np.uint8],
    *,
    side: int | None = None,
    segments: Sequence[Segment] | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Dense features of one image, [h, w, D]: means over windows, so not of length 1.

    Args:
        clip: the model.
        features: of `WINDOWED`.
        image: uint8 [H, W, 3] RGB.
        side: of a window in pixels; None: as published.
        segments: of the image, which `corr` keeps attention within; None: it has none.
        size: (height, width) that the segments refer to; None: that of `image`.

    Raises:
        ValueError: see `windows_for`.
    """
    windows = windows_for(clip, features, side)
    rows, columns = windows.size_of(*image.shape[:2])
    pixels = preprocess([image], (rows, columns), _ZEROS, _ONES, clip.device)[0]
    if features == "tipsv2":
        return over_windows(pixels, windows, lambda batch, _: tips_features(clip.model.visual, batch))
    corners, side = windows.corners(rows, columns), windows.side
    phi = _proxy(clip).features(pixels, corners, side, keys=features == "corr")
    grid = (rows // windows.unit, columns // windows.unit)
    height, width = size or (image.shape[0], image.shape[1])
    regions = region_map(segments or (), height, width, grid) if features == "corr" else None
    compute = _Compute(clip, windows, dict(zip(corners, phi, strict=True)), regions)
    return over_windows(pixels, windows, compute)


class _Compute:
    """`proxy` features of windows, or `corr` features if there are regions.

    Args:
        clip: the model.
        windows: of the image.
        phi: the other model's features [n, n, C] of each window.
        regions: int64 [h, w] of the image, or None.
    """

    def __init__(
        self, clip: ClipModel, windows: Sliding, phi: dict[Corner, Tensor], regions: NDArray[np.int64] | None
    ) -> None:
        self._clip, self._windows, self._phi = clip, windows, phi
        self._regions = None if regions is None else torch.from_numpy(regions).to(clip.device)
        self._mean, self._std = (
            torch.tensor(values, device=clip.device)[:, None, None] for values in (clip.mean, clip.std)
        )

    def __call__(self, batch: Tensor, corners: list[Corner]) -> Tensor:
        """See `over_windows`."""
        visual, images = self._clip.model.visual, (batch - self._mean) / self._std
        phi = torch.stack([self._phi[corner] for corner in corners])
        if self._regions is None:
            return proxy_features(visual, images, phi)
        unit = self._windows.unit
        cells = [(y // unit, x // unit) for y, x in corners]
        return corr_features(visual, images, phi, cut(self._regions, cells, self._windows.side // unit))
