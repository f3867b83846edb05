"""The ids of a mask file: PNG, TIFF, BMP, PGM, lossless WebP or a NumPy array, of 1 to 16 bits."""

from __future__ import annotations

import io
import math
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from segray.pipelines.io.image_cost import TimedFile, TookTooLongError, shares_bytes
from segray.pipelines.io.images import ImageOptions, one_line
from segray.pipelines.io.label_png import decode_gray_png
from segray.pipelines.io.png_chunks import SIGNATURE, check_png
from segray.pipelines.io.tiff_frames import full_images, is_tiff, single_image
from segray.pipelines.masks.color_table import GRAY, BoundColors

IdMap = NDArray[np.uint8] | NDArray[np.uint16]
"""Ids of a mask, [H, W]: uint8 if they are all below 256."""

ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".pgm", ".webp", ".npy")
"""Endings of mask files, in the order of precedence."""
LOSSY_ENDINGS = (".jpg", ".jpeg", ".jp2", ".avif")
"""Endings of files that are named as masks and cannot be."""


_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG", "JPEG2000", "AVIF")
_LOSSY_TIFF = {
    6: "JPEG",
    7: "JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    50001: "WebP",
}
_BITS, _COMPRESSION, _PHOTOMETRIC = 258, 259, 262
_WHITE_IS_ZERO = 0
# One blank at a time: repetitions within repetitions take a time that doubles with each blank.
_PGM = re.compile(rb"P5(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
_MAX_PIXELS, _MAX_SECONDS = ImageOptions().max_pixels, ImageOptions().max_seconds


def read_ids(data: bytes, colors: BoundColors | None, key: str) -> IdMap:
    """The ids of a mask file, whole numbers of 0 to 65535 as they are stored; of colours, the ids of a table.

    Args:
        data: the file.
        colors: ids of colours; None: a mask in RGB is refused, a palette is read by its indices.
        key: the configuration key of the colour table, for messages.

    Raises:
        ValueError: damaged, lossy, of several pages, or without whole ids; the message is one line.
    """
    if not data:
        raise ValueError("an empty file")
    if data.startswith(b"\x93NUMPY"):
        return _whole(_numpy(data))
    if data.startswith(b"P5"):
        return _whole(_pgm(data))
    if data.startswith(SIGNATURE):
        if colors is None and _is_plain(data):
            return decode_gray_png(data)
        check_png(data, _MAX_PIXELS)
    if is_tiff(data):
        _check_pages(full_images(data))
        data = single_image(data, "first")
    return _pillow(data, colors, key)


def _is_plain(png: bytes) -> bool:
    """Whether a PNG holds a palette or 8 bits of grey, not interlaced: the fast reader's kinds."""
    depth, colour, interlaced = png[24:25], png[25:26], png[28:29]
    return interlaced == b"\0" and (colour == b"\3" or (colour, depth) == (b"\0", b"\x08"))


def _pillow(data: bytes, colors: BoundColors | None, key: str) -> IdMap:
    try:
        with Image.open(TimedFile(data, _MAX_SECONDS), formats=_FORMATS) as image:
            _check(image, data)
            image.load()
            values = _colour_ids(image, colors, key) if _has_colours(image, colors) else _values(image, data)
    except ValueError:
        raise
    except TookTooLongError:
        raise ValueError(f"takes longer than {_MAX_SECONDS:g} s") from None
    except UnidentifiedImageError:
        raise ValueError("not an image") from None
    except Exception as error:
        raise ValueError(f"cannot be read ({one_line(error)})") from error
    return _whole(values)


def _check(image: Image.Image, data: bytes) -> None:
    if image.width * image.height > _MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels (allowed: {_MAX_PIXELS / 1e6:g} million)")
    if isinstance(image, TiffImagePlugin.TiffImageFile) and shares_bytes(image, data):
        raise ValueError("a TIFF whose parts share bytes of the file")
    lossy = _lossy(image, data)
    if lossy:
        raise ValueError(
            f"{lossy} is lossy, it mixes ids along every edge; save the original masks as PNG, TIFF or BMP"
        )
    _check_pages(getattr(image, "n_frames", 1))
    if image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO and image.mode != "1":
        raise ValueError("a TIFF that stores 0 as white, so that its ids are inverted; save it as a PNG")


def _check_pages(pages: int) -> None:
    if pages > 1:
        raise ValueError(f"{pages} pages; a mask has one")


def _lossy(image: Image.Image, data: bytes) -> str:
    """The name of the lossy compression; "" for none."""
    if image.format == "TIFF":
        return _LOSSY_TIFF.get(_tag(image, _COMPRESSION), "")
    if image.format == "WEBP":
        return "" if b"VP8L" in data[:64] else "WebP"
    return image.format or "" if image.format in {"JPEG", "MPO", "JPEG2000", "AVIF"} else ""


def _tag(image: Image.Image, number: int) -> int:
    value = getattr(image, "tag_v2", {}).get(number, 0)
    return int(value[0] if isinstance(value, tuple) else value)


def _has_colours(image: Image.Image, colors: BoundColors | None) -> bool:
    # Programs that write GIFs renumber the colours of a palette.
    if image.format == "GIF":
        return True
    return colors is not None or image.mode in {"RGB", "RGBA", "LA", "CMYK", "RGBX", "La", "PA", "YCbCr"}


def _colour_ids(image: Image.Image, colors: BoundColors | None, key: str) -> NDArray[np.uint16]:
    if colors is None:
        kind = "GIF" if image.format == "GIF" else image.mode
        raise ValueError(
            f"a mask of colours ({kind}), not of ids: {key}=FILE gives the colours of the classes (such as "
            f"CVAT's labelmap.txt), {key}={GRAY} reads equal channels as ids"
        )
    if image.mode in {"1", "I", "F"} or image.mode.startswith("I;16"):
        if colors.by_value:
            return _values(image, b"").astype(np.uint16)
        raise ValueError(f"no colours in it (mode {image.mode}), but {key} is set")
    if image.mode not in {"L", "P", "RGB", "RGBA", "LA", "PA"}:
        raise ValueError(f"a mask of colours in mode {image.mode}; save it as RGB")
    return colors.ids(np.asarray(image.convert("RGBA")), key)


def _values(image: Image.Image, data: bytes) -> NDArray[np.generic]:
    """The stored numbers, [H, W]; Pillow stretches 2 and 4 bits to 8."""
    values = np.asarray(image)
    if values.ndim != 2:
        raise ValueError(f"{values.shape[2]} channels (mode {image.mode}); a mask has one")
    depth = _depth(image, data)
    return values // (255 // (2**depth - 1)) if image.mode == "L" and depth in (2, 4) else values


def _depth(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG":
        return data[24]
    return _tag(image, _BITS) if image.format == "TIFF" else 8


def _whole(values: NDArray[np.generic]) -> IdMap:
    """Values of any type as ids.

    Raises:
        ValueError: a value is no whole number of 0 to 65535, or there are none.
    """
    if values.dtype.kind not in "biuf" or values.ndim != 2 or not values.size:
        raise ValueError(f"{values.dtype} {list(values.shape)}; a mask is an array [H, W] of whole numbers")
    if values.dtype == bool or values.dtype == np.uint8:
        return values.astype(np.uint8)
    numbers = values.astype(np.float64)
    bad = ~((numbers >= 0) & (numbers <= 65535) & (numbers == np.floor(numbers)))
    if bad.any():
        y, x = np.argwhere(bad)[0]
        raise ValueError(
            f"holds {numbers[y, x]:g} (first at x={x}, y={y}); ids are whole numbers, 0 to 65535"
        )
    return numbers.astype(np.uint8) if numbers.max() < 256 else numbers.astype(np.uint16)


def _numpy(data: bytes) -> NDArray[np.generic]:
    """An array of NumPy's own format; its header is not believed."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError("its header does not fit its content")
        values: NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise ValueError(f"cannot be read ({one_line(error)})") from error
    # (H, W, 1) and (1, H, W) are usual, too.
    return values.reshape([side for side in shape if side != 1]) if values.ndim == 3 else values


def _pgm(data: bytes) -> NDArray[np.generic]:
    """A greyscale PGM, whose values Pillow would stretch to its maximum."""
    head = _PGM.match(data)
    if head is None:
        raise ValueError("a damaged PGM")
    width, height, highest = (int(number) for number in head.groups())
    dtype = np.dtype(np.uint8 if highest < 256 else ">u2")
    if width * height * dtype.itemsize > len(data) - head.end():
        raise ValueError("a truncated PGM")
    return np.frombuffer(data, dtype, width * height, head.end()).reshape(height, width)
