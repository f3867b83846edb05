"""Encode and decode label PNGs: one number per pixel, read alike by every program."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

from segray.pipelines.io.images import one_line
from segray.pipelines.io.png_chunks import SIGNATURE, chunk, inflate, parts

UInt8Array = NDArray[np.uint8]

_COLOURS = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale with alpha", 6: "RGBA"}


def encode_gray_png(array: UInt8Array) -> bytes:
    """An 8-bit greyscale PNG of a uint8 [H, W] array, rows unfiltered: small for label maps, fast to read.

    By hand, like `decode_gray_png`, for speed: 0.63 ms for both on a 375 x 500 label map, Pillow 1.94 ms.

    Raises:
        ValueError: another dtype or shape, or no pixels.
    """
    if array.dtype != np.uint8 or array.ndim != 2 or not array.size:
        raise ValueError(f"a grey PNG needs uint8 [H, W], got {array.dtype} {list(array.shape)}")
    height, width = array.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = array
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    bodies = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.data, 3)), (b"IEND", b""))
    return SIGNATURE + b"".join(chunk(kind, body) for kind, body in bodies)


MAX_LABEL_PIXELS = 1 << 28
"""Pixels of the largest label map that is read."""
_DEPTHS = {0: (8,), 3: (1, 2, 4, 8)}


def decode_gray_png(data: bytes, shape: tuple[int, int] | None = None) -> UInt8Array:
    """The class ids of a label PNG as uint8 [H, W]: 8-bit grey values, or the indices of a palette.

    Its header decides, before a pixel is unpacked: 1 kB can hold a map of any size.

    Args:
        data: the file.
        shape: (height, width) that it must have; None: any, up to `MAX_LABEL_PIXELS`.

    Raises:
        ValueError: not a PNG, truncated or damaged (every checksum is verified), another kind of PNG, or
            another size.
    """
    (width, height, depth, colour, interlaced), packed = parts(data)
    if interlaced or depth not in _DEPTHS.get(colour, ()):
        kind = f"{depth}-bit {_COLOURS.get(colour, 'unknown')} PNG{' with interlacing' if interlaced else ''}"
        raise ValueError(f"{kind}; a label map is an 8-bit greyscale or a palette PNG, not interlaced")
    if shape is not None and (height, width) != shape:
        raise ValueError(f"the PNG is {width}x{height}, its image {shape[1]}x{shape[0]}")
    if width * height > MAX_LABEL_PIXELS:
        raise ValueError(f"a PNG of {width}x{height} pixels (allowed: at most {MAX_LABEL_PIXELS})")
    stride = 1 + (width * depth + 7) // 8
    pixels = np.empty((height if colour == 0 else 0, width), np.uint8)
    filtered, row = colour != 0, 0
    for block in inflate(packed, height, stride):
        filtered = filtered or bool(block[:, 0].any())
        if not filtered:
            pixels[row : row + len(block)] = block[:, 1:]
        row += len(block)
    return _filtered_rows(data) if filtered else pixels


def _filtered_rows(data: bytes) -> UInt8Array:
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            return np.array(image, np.uint8)
    except Exception as error:
        raise ValueError(f"damaged PNG: {one_line(error)}") from error
