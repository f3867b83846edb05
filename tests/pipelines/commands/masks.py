"""Folders of masks for tests of commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.io.label_png import encode_gray_png


def masks_in(folder: Path, **masks: NDArray[np.uint8]) -> Path:
    for name, mask in masks.items():
        path = folder / "masks" / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_gray_png(mask))
    return folder / "masks"
