"""What SAM sees and when: windows and point grids, sizes, preprocessing, encoding, upsampling.

The numbers follow segment_anything 1.0 (Apache-2.0; `predictor.py`, `utils/amg.py`, `utils/transforms.py`)
operation by operation where a rounding could change a mask; the modules themselves are the package's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.sam_encoder import encode_pictures

Rgb = NDArray[np.uint8]
Points = NDArray[np.float64]
Window = tuple[int, int, int, int]
Size = tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """Sizes in pixels of one picture on its way through SAM.

    Attributes:
        height, width: of the picture.
        input_height, input_width: after resizing its longest side to `side`.
        side: of the model's square input, filled up with zeros right and below.
    """

    height: int
    width: int
    input_height: int
    input_width: int
    side: int


def frame(height: int, width: int, side: int) -> Frame:
    """The frame of a picture: longest side `side`, the other rounded and at least one pixel."""
    scale = side * 1.0 / max(height, width)
    input_height, input_width = (max(1, int(n * scale + 0.5)) for n in (height, width))
    return Frame(height, width, input_height, input_width, side)


def point_grid(n: int) -> Points:
    """The n * n centres of a regular grid in the unit square, float64 [n * n, 2] as (x, y), row by row."""
    centres = np.linspace(1 / (2 * n), 1 - 1 / (2 * n), n)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], -1).reshape(-1, 2)


def windows(height: int, width: int, n_layers: int, overlap_ratio: float) -> list[tuple[Window, int]]:
    """The whole picture, then 4**i overlapping windows for each layer i: ((x0, y0, x1, y1), layer).

    Neighbours overlap by `overlap_ratio` of the short side in layer 1, by half of it in layer 2, and so on.
    Windows that rounding puts outside of a tiny picture are left out.
    """
    found: list[tuple[Window, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, n_layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / n))
        w, h = (math.ceil((overlap * (n - 1) + length) / n) for length in (width, height))
        for column, row in product(range(n), range(n)):
            x, y = column * (w - overlap), row * (h - overlap)
            if x < width and y < height:
                found.append(((x, y, min(x + w, width), min(y + h, height)), layer))
    return found


def preprocess(sam: Any, images: Sequence[Rgb], sizes: Sequence[Size] | None = None) -> Tensor:
    """uint8 [H, W, 3] pictures of any sizes as one normalised float32 [B, 3, side, side] on SAM's device.

    Resized by Pillow (bilinear, antialiased) as upstream; the fill is zero after normalisation.

    Args:
        sam: the model.
        images: the pictures.
        sizes: (height, width) of the pictures that `images` are small copies of; None: they are themselves.
    """
    side = sam.image_encoder.img_size
    batch = torch.zeros(len(images), 3, side, side, device=sam.device)
    for slot, image, size in zip(batch, images, sizes or [i.shape[:2] for i in images], strict=True):
        f = frame(size[0], size[1], side)
        small = Image.fromarray(image).resize((f.input_width, f.input_height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).to(sam.device).permute(2, 0, 1)
        slot[:, : f.input_height, : f.input_width] = (pixels - sam.pixel_mean) / sam.pixel_std
    return batch


def encode(sam: Any, images: Sequence[Rgb], sizes: Sequence[Size] | None = None) -> Tensor:
    """Image embeddings [B, C, h, w] of pictures as `preprocess` takes them, in one pass of the encoder."""
    return encode_pictures(sam.image_encoder, preprocess(sam, images, sizes))


def rows_needed(f: Frame, rows: int) -> int:
    """How many of the `rows` rows of tokens over the model's square input reach the picture."""
    pixels = 4 * rows
    last = math.floor((f.input_height - 0.5) * pixels / f.side - 0.5) + 1
    return min(rows, last // 4 + 1)


def upsample(logits: Tensor, f: Frame) -> Tensor:
    """Low-resolution logits [K, h, w] as float [K, H, W] of the picture: to the model's input, cut, resize.

    Two bilinear steps, as `Sam.postprocess_masks`: one step would round other pixels to the other side.
    """
    square = F.interpolate(logits[None], (f.side, f.side), mode="bilinear", align_corners=False)
    inside = square[..., : f.input_height, : f.input_width]
    return F.interpolate(inside, (f.height, f.width), mode="bilinear", align_corners=False)[0]
