"""A drawn picture and a small SAM."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segray.models.builtin.arch import SAM_ARCH

Rgb = NDArray[np.uint8]
TINY_ARCH = SAM_ARCH | {
    "img_size": 64,
    "width": 32,
    "depth": 2,
    "window": 4,
    "prompt_dim": 32,
    "decoder_mlp": 32,
}


def scene(height: int, width: int, seed: int = 0) -> Rgb:
    """Ellipses on a gradient, what the reference model was trained on."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    image = np.stack([80 + 60 * x, 90 + 50 * y, 120 - 40 * x], -1)
    for _ in range(9):
        cx, cy, rx, ry = *rng.uniform(0.1, 0.9, 2), *rng.uniform(0.05, 0.25, 2)
        image[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = rng.uniform(0, 255, 3)
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
