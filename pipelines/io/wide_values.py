"""Values of an image in full depth, where Pillow would keep the high bytes alone, or swap them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile, TiffImagePlugin

from segray.pipelines.io.pixel_values import PixelProblem, Values, row_slices
from segray.pipelines.io.tiff_bands import EXTRA

Open = Callable[[], ImageFile.ImageFile]
UInt16Array = NDArray[np.uint16]

_HOST = "L" if sys.byteorder == "little" else "B"
_OTHER = {"L": "B", "B": "L"}
_COLOURS = frozenset({"RGB", "RGBA", "RGBX"})
_SIZ_MARKER, _DEPTH_PLACE = b"\xff\x51", 40
_BIG_ENDIAN = re.compile(r"(?<=;)(\d+)B")


def wide_values(image: ImageFile.ImageFile, data: bytes, reopen: Open) -> Values | None:
    """uint16 [H, W, C] of an image of more than 8 bits in several bands; None where Pillow has all bits.

    Args:
        image: opened, not loaded.
        data: the file.
        reopen: opens it again.

    Raises:
        PixelProblem: a package for this kind is not installed.
    """
    if image.mode not in _COLOURS:
        return None
    if image.format == "PPM":
        return _ppm(image, data)
    if image.format == "JPEG2000":
        return _jpeg2000(data)
    order = _byte_order(image)
    return None if order is None else _both_bytes(reopen, order)


def keep_byte_order(image: ImageFile.ImageFile) -> None:
    """Undo Pillow's swapping of bytes that libtiff has put in order, in compressed big-endian TIFFs.

    Args:
        image: opened, not loaded.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _HOST == "L":
        image.tile = [_in_order(tile) if tile[0] == "libtiff" else tile for tile in image.tile]


def _in_order(tile: ImageFile._Tile) -> ImageFile._Tile:
    return _with_mode(tile, _BIG_ENDIAN.sub(r"\1", _rawmode(tile)))


def _both_bytes(reopen: Open, order: str) -> UInt16Array:
    """Pillow has unpackers for either byte order: with the wrong one, it keeps the low bytes."""
    with reopen() as high:
        height, width, bands = high.height, high.width, len(high.getbands())
        pairs = np.empty((height, width, bands, 2), np.uint8)
        _fill(pairs[..., 1], high)
    with reopen() as low:
        low.tile = [_with_mode(tile, _mode_of(tile, _OTHER[order])) for tile in low.tile]
        _fill(pairs[..., 0], low)
    values: UInt16Array = pairs.view("<u2")[..., 0].astype(np.uint16, copy=False)
    return values


def _fill(values: NDArray[np.uint8], image: ImageFile.ImageFile) -> None:
    """Some rows at a time: an array of all of them would be copied twice."""
    image.load()
    if image.size != values.shape[1::-1]:
        raise EOFError
    for rows in row_slices(values):
        box = (0, rows.start, image.width, min(rows.stop, image.height))
        values[rows] = np.asarray(image.crop(box)).reshape(values[rows].shape)


def _byte_order(image: ImageFile.ImageFile) -> str | None:
    """ "B" or "L" where each band has 16 bits of which 8 would be lost; else None."""
    mode = _rawmode(image.tile[0]) if image.tile else ""
    colours, _, depth = mode.partition(";")
    # Of grey with transparency Pillow has no unpacker of the low bytes.
    if colours == "LA" or depth not in {"16B", "16L", "16N"}:
        return None
    return _HOST if depth == "16N" else depth[-1]


def _rawmode(tile: ImageFile._Tile) -> str:
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _mode_of(tile: ImageFile._Tile, order: str) -> str:
    return _rawmode(tile).partition(";")[0] + f";16{order}"


def _with_mode(tile: ImageFile._Tile, mode: str) -> ImageFile._Tile:
    return tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode)


def _ppm(image: ImageFile.ImageFile, data: bytes) -> UInt16Array | None:
    """Of a binary PPM; up to its greatest value, as Pillow reads grey ones."""
    tile = image.tile[0]
    highest: Any = tile.args[1] if isinstance(tile.args, tuple) else 255
    if tile[0] != "ppm" or highest < 256:
        return None
    count = image.width * image.height * 3
    if len(data) < tile.offset + 2 * count:
        raise EOFError
    values = np.frombuffer(data, ">u2", count, tile.offset).reshape(image.height, image.width, 3)
    return np.rint(np.minimum(values, highest) * (65535 / highest)).astype(np.uint16)


def _jpeg2000(data: bytes) -> UInt16Array | None:
    place = data.find(_SIZ_MARKER) + _DEPTH_PLACE
    depth = (data[place] & 127) + 1 if place < len(data) else 8
    if depth <= 8:
        return None
    if find_spec("imagecodecs") is None:
        raise PixelProblem(f"a JPEG 2000 of {depth} bits per colour: {EXTRA} reads it")
    import imagecodecs

    values: UInt16Array = imagecodecs.jpeg2k_decode(data)
    # Pillow reads grey ones so, too.
    return values << np.uint16(16 - depth)
