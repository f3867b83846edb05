"""What the page shows of an image, as files: photographs as JPEG, maps of ids as PNG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segray.models.label_map import LabelMap
from segray.models.masks import Box
from segray.pipelines.io.images import ImageOptions, decode
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.reporting import thumbnails

Pixels = NDArray[np.uint8]

THUMBNAIL = 320
"""Longest side of a thumbnail in pixels."""
CROP = 160
"""Side of a segment's picture in pixels."""
_AROUND = 0.35
"""What a segment's picture shows around it, as a share of its longer side."""
_OUTLINE = (255, 255, 255)


def accepted(height: int, width: int) -> ImageOptions:
    """The limits of an image of a label set: its label has its size, which the run's own limits allowed."""
    return ImageOptions(
        max_pixels=max(1, height * width), max_side=max(1, height, width), min_size=1, frames="first"
    )


def photo(data: bytes, limits: ImageOptions, longest: int | None = None) -> bytes:
    """An image file as an upright JPEG.

    Args:
        data: the file.
        limits: of its size.
        longest: longest side in pixels; None: as it is.

    Raises:
        ImageProblem: it cannot be decoded.
    """
    image = Image.fromarray(decode(data, limits))
    if longest is not None:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return _jpeg(image, 84 if longest else 92)


def id_map(label: LabelMap) -> bytes:
    """A map of ids as a PNG that a browser's canvas reads exactly: grey, or red and green for 16 bits."""
    if label.dtype == np.uint8:
        return encode_gray_png(label)
    bands = np.dstack([label >> 8, label & 255, np.zeros_like(label)]).astype(np.uint8)
    return _png(Image.fromarray(bands))


def overlay(label: LabelMap, palette: Pixels, ignore_index: int) -> bytes:
    """A thumbnail of a label map in the colours of its classes; background and ignored pixels are clear."""
    small = thumbnails.shrink(label, THUMBNAIL)
    colours = visible_on_photos(palette)[np.minimum(small, len(palette) - 1)]
    alpha = np.where((small == 0) | (small == ignore_index), 0, 255).astype(np.uint8)
    pixels = np.dstack([colours, alpha])
    pixels[alpha == 0] = 0
    return _png(Image.fromarray(pixels))


def visible_on_photos(palette: Pixels) -> Pixels:
    """The palette with its darkest colours made lighter, as the page's own script does for the viewer."""
    dark = palette @ np.array([0.3, 0.59, 0.11]) < 60
    lighter = palette + (255 - palette.astype(float)) * 0.28
    return np.where(dark[:, None], np.rint(lighter), palette).astype(np.uint8)


def segment_crop(image: Pixels, mask: NDArray[np.bool_], box: Box) -> bytes:
    """A square picture of a segment, outlined, with what is around it darkened.

    Args:
        image: uint8 [H, W, 3].
        mask: bool [H, W].
        box: x, y, w, h of the segment.
    """
    x, y, w, h = box
    half = round(max(w, h) * (0.5 + _AROUND))
    height, width = mask.shape
    left, right = max(0, x + w // 2 - half), min(width, x + w // 2 + half + 1)
    top, bottom = max(0, y + h // 2 - half), min(height, y + h // 2 + half + 1)
    pixels, inside = image[top:bottom, left:right].copy(), mask[top:bottom, left:right]
    pixels[~inside] = pixels[~inside] // 2 + 20
    scale = CROP / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    large = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    shape = np.asarray(Image.fromarray(inside).resize(size, Image.Resampling.NEAREST))
    large[thumbnails.edges(shape)] = _OUTLINE
    return _jpeg(Image.fromarray(large), 85)


def warm_up() -> None:
    """Draw one of each kind: libraries load their parts at first use, and no request should wait for that."""
    pixels, label = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    photo(_jpeg(Image.fromarray(pixels), 85), accepted(8, 8), THUMBNAIL)
    overlay(label, np.zeros((256, 3), np.uint8), 255)
    id_map(label.astype(np.uint16))
    segment_crop(pixels, label == 0, (0, 0, 8, 8))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
