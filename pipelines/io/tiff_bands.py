"""TIFFs that Pillow cannot open: more than four bands, floats or 16 bits in several bands."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from segray.pipelines.io.tiff_frames import check_first

EXTRA = 'pip install "segray[tiff]"'
_GEO_TAGS = (33550, 33922, 34264, 34735)
"""Pixel scale, tie points, transformation and keys of a GeoTIFF."""
_BYTES_PER_PIXEL = 64


@dataclass(frozen=True)
class Bands:
    """The first image of a TIFF.

    Attributes:
        values: [H, W, C].
        rgb: whether the file says that its first three bands are red, green and blue.
        alpha: whether it says that the fourth is transparency.
        nodata: the value that means "nothing here".
    """

    values: NDArray[Any]
    rgb: bool
    alpha: bool
    nodata: float | None


def is_geotiff(tags: object) -> bool:
    """Whether TIFF tags, a mapping by number, place the image on the earth."""
    return isinstance(tags, dict) and any(tag in tags for tag in _GEO_TAGS)


def header(data: bytes) -> dict[int, Any] | None:
    """The tags of the first image, by number; None if they cannot be read, or are too many."""
    try:
        check_first(data)
        size = 16 if data[2:3] in b"+" else 8
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:size])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return {number: tags[number] for number in tags}
    except Exception:  # noqa: BLE001  damaged bytes raise anything
        return None


def is_separate(tags: dict[int, Any]) -> bool:
    """Whether bands of more than 8 bits follow one another, of which Pillow keeps the high bytes alone."""
    bits = tags.get(258, (8,))
    return tags.get(284) == 2 and int(tags.get(277, 1)) > 1 and bits != (8,) * len(bits)


def describe(tags: dict[int, Any]) -> str:
    """What a TIFF holds, such as "5 bands of 8 bits"."""
    bands, bits = int(tags.get(277, 1)), tags.get(258, (1,))
    return f"{bands} band{'s' * (bands != 1)} of {bits[0] if isinstance(bits, tuple) else bits} bits"


def size_of(data: bytes) -> tuple[int, int, int]:
    """Width, height and bytes of a pixel of the first image, from its header.

    Raises:
        ValueError: it would not fit in memory.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        width, height = int(page.imagewidth), int(page.imagelength)
        n_bytes = page.samplesperpixel * (page.dtype.itemsize if page.dtype else 1)
        if n_bytes > _BYTES_PER_PIXEL or page.imagedepth != 1:
            raise ValueError(f"{page.samplesperpixel} bands of {page.dtype} are too many")
        return width, height, n_bytes


def read_bands(data: bytes) -> Bands:
    """Decode the first image; its size must have been checked.

    Raises:
        ValueError: not a kind of TIFF that can be read.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        values = np.asarray(page.asarray())
        if page.samplesperpixel > 1 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            values = np.moveaxis(values, 0, -1)
        values = values.reshape(*values.shape[:2], -1)
        if values.dtype.kind not in "uif":
            raise ValueError(f"bands of {values.dtype}")
        extra = [int(sample) for sample in page.extrasamples]
        rgb = page.photometric == tifffile.PHOTOMETRIC.RGB and values.shape[2] >= 3
        has_nodata = 42113 in page.tags
        return Bands(values, rgb, rgb and extra[:1] in ([1], [2]), page.nodata if has_nodata else None)
