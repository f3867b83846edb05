"""Mask files of all kinds: whole ids in any lossless format, and the reason for all others."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.masks.raster import read_ids

IDS = np.arange(6, dtype=np.uint8).reshape(2, 3)
BITS = (IDS % 2).astype(bool)
MANY = IDS.astype(np.uint16) * 100


def saved(array: NDArray[Any], kind: str, mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(array)
    if mode == "P":
        image = Image.fromarray(array, "P")
        image.putpalette(list(range(255, -1, -1)) * 3)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def numpy_file(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pgm(array: NDArray[Any], highest: int) -> bytes:
    height, width = array.shape
    return f"P5\n# made by hand\n{width} {height}\n{highest}\n".encode() + array.tobytes()


KINDS = {
    "png": (encode_gray_png(IDS), IDS),
    "palette png": (saved(IDS, "PNG", "P"), IDS),
    "1-bit png": (saved(BITS, "PNG"), BITS),
    "4-bit palette png": (saved(IDS, "PNG", "P", bits=4), IDS),
    "16-bit png": (saved(MANY, "PNG"), MANY),
    "16-bit png of small ids": (saved(IDS.astype(np.uint16), "PNG"), IDS),
    "tiff": (saved(IDS, "TIFF"), IDS),
    "tiff, lzw": (saved(IDS, "TIFF", compression="tiff_lzw"), IDS),
    "palette tiff": (saved(IDS, "TIFF", "P"), IDS),
    "1-bit tiff": (saved(BITS, "TIFF"), BITS),
    "16-bit tiff": (saved(MANY, "TIFF"), MANY),
    "32-bit tiff": (saved(IDS.astype(np.int32), "TIFF"), IDS),
    "float tiff": (saved(IDS.astype(np.float32), "TIFF"), IDS),
    "bmp": (saved(IDS, "BMP"), IDS),
    "palette bmp": (saved(IDS, "BMP", "P"), IDS),
    "1-bit bmp": (saved(BITS, "BMP"), BITS),
    "pgm of maximum 9": (pgm(IDS, 9), IDS),
    "16-bit pgm": (pgm(MANY.astype(">u2"), 999), MANY),
    "npy": (numpy_file(IDS.astype(np.int64)), IDS),
    "npy, [1, H, W]": (numpy_file(IDS[None].astype(np.float32)), IDS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_ids_in_any_lossless_format(kind: str) -> None:
    data, expected = KINDS[kind]
    ids = read_ids(data, None, "colors")
    assert ids.dtype == (np.uint16 if expected is MANY else np.uint8)
    assert ids.tolist() == expected.astype(int).tolist()


def two_bit_png() -> bytes:
    """2 bits of grey, which Pillow reads stretched to 0, 85, 170, 255, and does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" + bytes([0b00_01_10_11]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_two_bits_are_ids_not_brightness() -> None:
    assert read_ids(two_bit_png(), None, "colors").tolist() == [[0, 1, 2, 3]]


RGB = np.dstack([IDS * 40, IDS, IDS])
PAGES = [Image.fromarray(IDS), Image.fromarray(IDS + 1)]


def pages() -> bytes:
    buffer = io.BytesIO()
    PAGES[0].save(buffer, "TIFF", save_all=True, append_images=PAGES[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (saved(IDS, "JPEG"), "JPEG is lossy, it mixes ids along every edge"),
        (saved(RGB, "WEBP", quality=50), "WebP is lossy"),
        (saved(RGB, "TIFF", compression="jpeg"), "JPEG is lossy"),
        (saved(RGB, "JPEG2000"), "JPEG2000 is lossy"),
        (saved(RGB, "PNG"), "data.colors=FILE gives the colours of the classes"),
        (saved(RGB, "WEBP", lossless=True), "a mask of colours (RGB)"),
        (saved(IDS.astype(np.float32) / 2, "TIFF"), "holds 0.5 (first at x=1, y=0); ids are whole numbers"),
        (numpy_file(IDS.astype(np.int64) - 1), "holds -1 (first at x=0, y=0)"),
        (numpy_file(IDS.astype(np.int64) * 70000), "holds 70000 (first at x=1, y=0)"),
        (numpy_file(np.array([["a"]])), "a mask is an array [H, W] of whole numbers"),
        (numpy_file(IDS)[:-1], "its header does not fit its content"),
        (numpy_file(np.array([[{}]])), "its header does not fit its content"),
        (saved(IDS, "GIF"), "a mask of colours (GIF), not of ids"),
        (pages(), "2 pages; a mask has one"),
        (saved(MANY, "PNG")[:-20], "truncated PNG"),
        (pgm(IDS, 9)[:-1], "a truncated PGM"),
        (b"hello", "not an image"),
        (b"", "an empty file"),
    ],
)
def test_what_is_no_mask_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared below
        read_ids(data, None, "data.colors")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
