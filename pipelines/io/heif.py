"""HEIC images, by libheif, and the names of kinds that nothing here reads."""

from __future__ import annotations

import re
from importlib.util import find_spec

from PIL import ImageFile

from segray.pipelines.io.image_cost import TimedFile

EXTRA = 'pip install "segray[heif]"'
_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_BRANDS_BYTES = 256
# A size that the header names: of the image, of its tiles, of its previews.
_SIZE = re.compile(rb"ispe\0{4}(.{4})(.{4})", re.DOTALL)
_HEADER_BYTES = 1 << 20
_KINDS = (
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"8BPS"), "Photoshop's PSD"),
    (re.compile(rb"%PDF"), "PDF"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg", re.DOTALL), "SVG"),
    (re.compile(rb"\x76\x2f\x31\x01"), "OpenEXR"),
    (re.compile(rb"\x89HDF|CDF[\1\2]"), "HDF5 or NetCDF"),
    (re.compile(rb".{128}DICM", re.DOTALL), "DICOM"),
)


def is_heif(data: bytes) -> bool:
    """Whether a file is a HEIF container with HEVC inside; AVIF shares its brands."""
    if data[4:8] != b"ftyp" or data[8:12] not in _BRANDS:
        return False
    size = min(int.from_bytes(data[:4], "big"), _BRANDS_BYTES)
    brands = {data[start : start + 4] for start in range(16, size, 4)}
    return not brands & {b"avif", b"avis"}


def can_read() -> bool:
    """Whether the package that reads them is installed."""
    return find_spec("pillow_heif") is not None


def most_pixels(data: bytes) -> int:
    """The largest size that the header names, in pixels: how much memory decoding may take."""
    sizes = _SIZE.findall(data[:_HEADER_BYTES])
    return max((int.from_bytes(w, "big") * int.from_bytes(h, "big") for w, h in sizes), default=0)


def open_heif(file: TimedFile) -> ImageFile.ImageFile:
    """The main image of a file, upright.

    Raises:
        SyntaxError: it is damaged.
    """
    from pillow_heif import HeifImageFile

    return HeifImageFile(file, "")


def unread_kind(data: bytes) -> str:
    """The name of a kind of image that is known and not read; "" for any other."""
    return next((name for start, name in _KINDS if start.match(data[:4096])), "")
