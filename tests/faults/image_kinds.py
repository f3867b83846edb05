"""The scene of tests/faults/images.py in many containers, and kinds that end as a row with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.faults.images import encode, png_chunk, scene

Array = NDArray[Any]
GEO = [(33550, "d", 3, (0.5, 0.5, 0.0), True)]
XMP = b'<rdf:Description tiff:Orientation="%d"/>'


def tiff(values: Array, form: dict[str, Any] | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **(form or {})) as writer:
        writer.write(values, **{"photometric": "rgb", **options})
    return file.getvalue()


def pages(*images: tuple[Array, int]) -> bytes:
    """A TIFF of images with their NewSubfileType."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for values, kind in images:
            writer.write(values, subfiletype=kind, photometric="mask" if kind & 4 else "rgb")
    return file.getvalue()


def heic(*images: Array) -> bytes:
    """Lossless."""
    file = pillow_heif.from_pillow(Image.fromarray(images[0]))
    for values in images[1:]:
        file.add_from_pillow(Image.fromarray(values))
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, matrix_coefficients=0, chroma=444)
    return buffer.getvalue()


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


def text(keyword: bytes, body: bytes, *, packed: bool) -> bytes:
    """A chunk iTXt."""
    start = keyword + (b"\0\1\0\0\0" if packed else b"\0\0\0\0\0")
    return png_chunk(b"iTXt", start + (zlib.compress(body) if packed else body))


def turned(name: str, orientation: int, stored: Array, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(np.ascontiguousarray(stored)), name, exif=exif, **options)


def many_tags(count: int) -> bytes:
    """A TIFF of 16 x 16 pixels with so many tags."""
    tags = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 16), (279, 4, 1, 256)]
    tags += [(60_000 - count + k, 4, 1, 0) for k in range(count - len(tags))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 264) + bytes(256) + struct.pack("<H", count) + entries + bytes(4)


def exact_kinds() -> dict[str, bytes]:
    """name -> a file that decodes to the scene, bit for bit."""
    values = scene()
    small, plain = np.ascontiguousarray(255 - values[::2, ::2]), encode(Image.fromarray(values), "PNG")
    wide, swapped = values.astype(np.uint16) * 257, np.ascontiguousarray(values[..., ::-1])
    data = np.dstack([values, np.random.default_rng(0).integers(1, 255, values.shape[:2]).astype(np.uint8)])
    opaque = np.dstack([values, np.full(values.shape[:2], 255, np.uint8)])
    wide_swapped = np.ascontiguousarray(wide[..., ::-1])
    return {
        "kinds/cog.tif": pages((values, 0), (small, 1), (small[..., 0] > 9, 4), (small[..., 0] > 9, 5)),
        "kinds/preview_first.tif": pages((small, 1), (values, 0)),
        "kinds/bigtiff.tif": tiff(values, {"bigtiff": True}),
        "kinds/big_endian.tif": tiff(values, {"byteorder": ">"}),
        "kinds/tiles.tif": tiff(values, tile=(16, 16), compression="lzw", predictor=2),
        "kinds/planes.tif": tiff(np.moveaxis(values, 2, 0), planarconfig="separate"),
        "kinds/zstd.tif": tiff(values, compression="zstd"),
        "kinds/geo_infrared.tif": tiff(data, extrasamples=["unassalpha"], extratags=GEO),
        "kinds/opaque.tif": tiff(opaque, extrasamples=["unassalpha"]),
        "kinds/turned.tif": turned("TIFF", 3, values[::-1, ::-1]),
        "kinds/16_bits.tif": tiff(wide),
        "kinds/16_bit_planes.tif": tiff(np.moveaxis(wide, 2, 0), planarconfig="separate"),
        "kinds/float.tif": tiff((values / 255).astype(np.float32)),
        "kinds/float_big_endian.tif": tiff((values / 255).astype(np.float32), {"byteorder": ">"}),
        "kinds/16_bits.png": cv2.imencode(".png", wide_swapped)[1].tobytes(),
        "kinds/16_bits.ppm": cv2.imencode(".ppm", wide_swapped)[1].tobytes(),
        "kinds/16_bits.jp2": bytes(imagecodecs.jpeg2k_encode(wide, level=0)),
        "kinds/lossless.jp2": bytes(imagecodecs.jpeg2k_encode(values, level=0)),
        "kinds/lossless.webp": encode(Image.fromarray(values), "WEBP", lossless=True),
        "kinds/turned.webp": turned("WEBP", 6, np.rot90(values), lossless=True),
        "kinds/lossless.avif": bytes(imagecodecs.avif_encode(values, level=100)),
        "kinds/lossless.heic": heic(values),
        "kinds/a_heic.jpg": heic(values),
        "kinds/opencv.bmp": cv2.imencode(".bmp", swapped)[1].tobytes(),
        "kinds/long_xmp.png": with_chunks(plain, text(b"XML:com.adobe.xmp", bytes(4 << 20), packed=True)),
        "kinds/private.png": with_chunks(plain, png_chunk(b"prVt", bytes(1 << 20)), png_chunk(b"iDOT", b"")),
        "kinds/broken_profile.png": with_chunks(plain, png_chunk(b"iCCP", b"a\0\0not a profile")),
        "kinds/broken_text.png": with_chunks(plain, png_chunk(b"tEXt", b"Author\0nobody")[:-1] + b"?"),
        "kinds/turned.png": turned("PNG", 8, np.rot90(values, -1)),
        "kinds/turned_by_xmp.png": with_chunks(
            encode(Image.fromarray(np.ascontiguousarray(np.rot90(values))), "PNG"),
            text(b"XML:com.adobe.xmp", XMP % 6, packed=False),
        ),
    }


def close_kinds() -> dict[str, bytes]:
    """name -> a file that shows the scene, not bit for bit."""
    values = scene()
    image = Image.fromarray(values)
    return {
        "kinds/12_bits_of_16.tif": tiff(values.astype(np.uint16) * 12),
        "kinds/gray_float64.tif": tiff(values.mean(2), photometric="minisblack"),
        "kinds/jpeg_inside.tif": encode(image, "TIFF", compression="jpeg"),
        "kinds/progressive.jpg": encode(image, "JPEG", progressive=True),
        "kinds/long_profile.jpg": encode(image, "JPEG", icc_profile=bytes(300_000)),
        "kinds/lossy.avif": encode(image, "AVIF"),
        "kinds/bits.pbm": encode(image.convert("1", dither=Image.Dither.NONE), "PPM"),
        "kinds/gray.pgm": encode(image.convert("L"), "PPM"),
        "kinds/two_colours.gif": encode(image.quantize(2), "GIF"),
    }


def refused_kinds() -> dict[str, tuple[bytes, str, str]]:
    """name -> (bytes, expected status, start of the expected reason)."""
    values = scene()
    bands = np.concatenate([values, values[..., :2]], -1)
    clear = np.dstack([values, np.zeros(values.shape[:2], np.uint8)])
    data = np.dstack([values, np.random.default_rng(0).integers(1, 255, values.shape[:2]).astype(np.uint8)])
    photo, lossless = heic(values), bytes(imagecodecs.avif_encode(values, level=100))
    nothing, unread = "next to nothing to see", "not an image that can be read "
    return {
        "kinds/two_pages.tif": (pages((values, 2), (values, 2)), "skipped", "animated (2 frames)"),
        "kinds/two_photos.heic": (heic(values, 255 - values), "skipped", "animated (2 frames)"),
        "kinds/5_bands.tif": (
            tiff(bands, photometric="minisblack", planarconfig="contig"),
            "error",
            "5 bands of uint8, and nothing says which are red, green and blue; image.bands=1,2,3",
        ),
        "kinds/infrared.tif": (tiff(data, extrasamples=["unassalpha"]), "error", "the fourth band is marked"),
        "kinds/clear.png": (encode(Image.fromarray(clear), "PNG"), "error", nothing),
        "kinds/dark.png": (encode(Image.fromarray(values // 64), "PNG"), "error", nothing),
        "kinds/even_16.png": (encode(Image.new("I;16", (64, 48), 900), "PNG"), "error", nothing),
        "kinds/many_tags.tif": (many_tags(1001), "error", "a TIFF of 1001 tags"),
        "kinds/cut.tif": (tiff(values)[:-3000], "error", ""),
        "kinds/cut.heic": (photo[: len(photo) // 3], "error", "truncated"),
        "kinds/cut.avif": (lossless[: len(lossless) // 2], "error", ""),
        "kinds/document.jpg": (b"%PDF-1.7\n" + bytes(99), "error", unread + "(PDF)"),
        "kinds/layers.png": (b"8BPS\0\1" + bytes(99), "error", unread + "(Photoshop's PSD)"),
        "kinds/x_ray.png": (bytes(128) + b"DICM" + bytes(99), "error", unread + "(DICOM)"),
    }
