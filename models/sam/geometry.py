"""SAM's geometry: crop windows, point grids, sizes, preprocessing and upsampling of logits.

Follows segment_anything 1.0 (Apache-2.0; `predictor.py`, `utils/amg.py`, `utils/transforms.py`) operation by
operation where rounding could change a mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

Rgb = NDArray[np.uint8]
Points = NDArray[np.float64]
Window = tuple[int, int, int, int]
Size = tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """Sizes in pixels of one image at each step of SAM's preprocessing.

    Attributes:
        height, width: of the image.
        input_height, input_width: after resizing its longest side to `side`.
        side: of the model's square input, padded with zeros right and below.
    """

    height: int
    width: int
    input_height: int
    input_width: int
    side: int


def frame(height: int, width: int, side: int) -> Frame:
    """The frame of an image: longest side `side`, the other side rounded and at least one pixel."""
    scale = side * 1.0 / max(height, width)
    input_height, input_width = (max(1, int(n * scale + 0.5)) for n in (height, width))
    return Frame(height, width, input_height, input_width, side)


def point_grid(n: int) -> Points:
    """Cell centres of an n x n grid on the unit square, float64 [n * n, 2] as (x, y), row by row."""
    centres = np.linspace(1 / (2 * n), 1 - 1 / (2 * n), n)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], -1).reshape(-1, 2)


def windows(height: int, width: int, n_layers: int, overlap_ratio: float) -> list[tuple[Window, int]]:
    """The whole image, then 4**i overlapping windows for each layer i: ((x0, y0, x1, y1), layer).

    Neighbours overlap by `overlap_ratio` of the short side in layer 1, by half of it in layer 2, and so on.
    Windows that rounding puts outside a tiny image are left out.
    """
    layers: list[tuple[Window, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, n_layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / n))
        w, h = (math.ceil((overlap * (n - 1) + length) / n) for length in (width, height))
        for column, row in product(range(n), range(n)):
            x, y = column * (w - overlap), row * (h - overlap)
            if x < width and y < height:
                layers.append(((x, y, min(x + w, width), min(y + h, height)), layer))
    return layers


def resized(image: Rgb, size: Size, side: int) -> Tensor:
    """Resize a uint8 [H, W, 3] image to SAM's input, uint8 [h, w, 3] with its longest side `side`.

    Uses Pillow (bilinear, antialiased) as upstream does.

    Args:
        image: the image, or a reduced copy of it.
        size: (height, width) of the original image.
        side: of the model's square input.
    """
    f = frame(size[0], size[1], side)
    small = Image.fromarray(image).resize((f.input_width, f.input_height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small))


def normalised(sam: Sam, images: Sequence[Tensor]) -> Tensor:
    """Normalise images from `resized` into one float32 [B, 3, side, side] on SAM's device, padded with 0."""
    side = sam.image_encoder.img_size
    batch = torch.zeros(len(images), 3, side, side, device=sam.device)
    for slot, image in zip(batch, images, strict=True):
        pixels = image.to(sam.device, non_blocking=True).permute(2, 0, 1)
        slot[:, : image.shape[0], : image.shape[1]] = (pixels - sam.pixel_mean) / sam.pixel_std
    return batch


def rows_needed(f: Frame, rows: int) -> int:
    """How many of the `rows` rows of tokens over the model's square input overlap the image."""
    pixels = 4 * rows
    last = math.floor((f.input_height - 0.5) * pixels / f.side - 0.5) + 1
    return min(rows, last // 4 + 1)


def upsample(logits: Tensor, f: Frame) -> Tensor:
    """Upsample low-resolution logits [K, h, w] to the image size, float [K, H, W].

    Two bilinear steps with a crop between them, as in `Sam.postprocess_masks`; a single step would round
    some pixels to the other side of the threshold.
    """
    square = F.interpolate(logits[None], (f.side, f.side), mode="bilinear", align_corners=False)
    inside = square[..., : f.input_height, : f.input_width]
    return F.interpolate(inside, (f.height, f.width), mode="bilinear", align_corners=False)[0]


def resampling(samples: int, side: int, inside: int, pixels: int) -> Tensor:
    """Both steps of `upsample` along one axis as one matrix, float32 [pixels, samples] on the CPU.

    Args:
        samples: number of logits over the model's input.
        side: of the input, in pixels.
        inside: how many of the input's pixels belong to the image.
        pixels: side of the image.
    """
    identity = torch.eye(samples)[:, None]
    square = F.interpolate(identity, (side,), mode="linear", align_corners=False)[..., :inside]
    return F.interpolate(square, (pixels,), mode="linear", align_corners=False)[:, 0].T.contiguous()
