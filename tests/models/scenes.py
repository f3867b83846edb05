"""Pictures that the built-in models know."""

from __future__ import annotations

import numpy as np

from segray.models.sam.geometry import Rgb
from segray.pipelines.scenes.picture_book import draw_scene


def scene(height: int, width: int, seed: int = 3) -> Rgb:
    """A scene's upper left corner, uint8 [height, width, 3]."""
    return np.ascontiguousarray(draw_scene(seed, 0, max(height, width)).image[:height, :width])
