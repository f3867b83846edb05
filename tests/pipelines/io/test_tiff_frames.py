"""Overviews, previews and masks of a TIFF are no frames, as tifffile writes them."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segray.pipelines.io import tiff_bands
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode
from segray.pipelines.io.tiff_frames import MAX_FRAMES, MAX_TAGS
from segray.pipelines.masks.raster import read_ids
from tests.faults.image_kinds import many_tags
from tests.faults.images import encode, scene

SCENE = scene()
FULL, REDUCED, PAGE, MASK = 0, 1, 2, 4
Array = NDArray[Any]


def tiff(*pages: tuple[Array, int], subifds: int = 0, **options: Any) -> bytes:
    """Pages with their NewSubfileType."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **options) as writer:
        for index, (values, kind) in enumerate(pages):
            inner = subifds if index == 0 else 0
            colours = "rgb" if values.ndim == 3 and values.shape[2] == 3 else "minisblack"
            colours = "mask" if kind & MASK else colours
            planes = "contig" if values.ndim == 3 else None
            writer.write(values, subfiletype=kind, subifds=inner, photometric=colours, planarconfig=planes)
    return file.getvalue()


def small(factor: int = 2) -> Array:
    return np.ascontiguousarray(255 - SCENE[::factor, ::factor])


def problem(data: bytes, **options: Any) -> tuple[str, str]:
    with pytest.raises(ImageProblem) as caught:
        decode(data, ImageOptions(**options))
    return caught.value.status, caught.value.reason


@pytest.mark.parametrize("several", ["skip", "first"])
@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}], ids=str)
@pytest.mark.parametrize("kind", [REDUCED, MASK, REDUCED | MASK, REDUCED | 8])
def test_overviews_and_masks_are_no_frames(kind: int, options: dict[str, Any], several: Any) -> None:
    others = [small() > 99, small(4) > 99] if kind & MASK else [small(), small(4)]
    data = tiff((SCENE, FULL), *((values[..., 0], kind) for values in others), **options)
    np.testing.assert_array_equal(decode(data, ImageOptions(frames=several)), SCENE)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}], ids=str)
@pytest.mark.parametrize("kinds", [(FULL, FULL), (PAGE, PAGE), (FULL, REDUCED, FULL)])
def test_images_of_full_size_are_frames(kinds: tuple[int, ...], options: dict[str, Any]) -> None:
    pages = [(SCENE // (1 + index), kind) for index, kind in enumerate(kinds)]
    data = tiff(*pages, **options)
    assert problem(data) == ("skipped", "animated (2 frames)")
    np.testing.assert_array_equal(decode(data, ImageOptions(frames="first")), SCENE)


@pytest.mark.parametrize("several", ["skip", "first"])
def test_a_preview_in_front_is_not_the_image(several: Any) -> None:
    data = tiff((small(), REDUCED), (SCENE, FULL))
    np.testing.assert_array_equal(decode(data, ImageOptions(frames=several)), SCENE)


def test_bands_have_overviews_too() -> None:
    bands = np.concatenate([SCENE, SCENE[..., :2]], -1)
    data = tiff((small(), REDUCED), (bands, FULL), (bands[::2, ::2], REDUCED))
    np.testing.assert_array_equal(decode(data, ImageOptions(bands=(3, 2, 1))), SCENE[..., ::-1])


def test_a_preview_of_an_image_that_is_not_read_is_an_error() -> None:
    data = tiff((small(), REDUCED), (SCENE, FULL), subifds=1)
    assert problem(data) == (
        "error",
        "its images are previews; the full one is in a SubIFD, which is not read",
    )


def test_the_orientation_of_an_image_with_overviews_is_undone() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        turned = np.ascontiguousarray(np.rot90(SCENE))
        writer.write(turned, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
        writer.write(small(), photometric="rgb", subfiletype=REDUCED)
    np.testing.assert_array_equal(decode(file.getvalue(), ImageOptions()), SCENE)


def with_link(data: bytes, place: int) -> bytes:
    """A little-endian TIFF of one image whose directory names another one."""
    start = int.from_bytes(data[4:8], "little")
    link = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    return data[:link] + struct.pack("<I", place) + data[link + 4 :]


def test_the_second_image_is_sought_only_where_it_counts() -> None:
    plain = encode(Image.fromarray(SCENE), "TIFF")
    cut = with_link(plain, len(plain) + 1000)
    assert problem(cut) == ("error", "truncated")
    np.testing.assert_array_equal(decode(cut, ImageOptions(frames="first")), SCENE)
    circle = with_link(plain, int.from_bytes(plain[4:8], "little"))
    np.testing.assert_array_equal(decode(circle, ImageOptions()), SCENE)


def test_the_tags_of_an_image_are_limited() -> None:
    assert decode(many_tags(MAX_TAGS), ImageOptions()).shape == (16, 16, 3)
    data = many_tags(MAX_TAGS + 1)
    assert problem(data) == ("error", "a TIFF of 1001 tags (allowed: 1000)")
    assert tiff_bands.header(data) is None
    with pytest.raises(ValueError, match="1001 tags"):
        read_ids(data, None, "data.colors")
    assert tiff_bands.header(many_tags(MAX_TAGS)) is not None


def test_masks_have_overviews_too() -> None:
    ids = SCENE[..., 0] % 7
    data = tiff((ids[::2, ::2], REDUCED), (ids, FULL), (ids[::2, ::2], REDUCED))
    np.testing.assert_array_equal(read_ids(data, None, "data.colors"), ids)
    with pytest.raises(ValueError, match="2 pages; a mask has one"):
        read_ids(tiff((ids, PAGE), (ids, PAGE)), None, "data.colors")


def test_frames_are_counted_up_to_a_limit() -> None:
    tiny = np.zeros((8, 8), np.uint8)
    data = tiff(*[(tiny, FULL)] * (MAX_FRAMES + 5))
    assert problem(data) == ("skipped", "animated (many frames)")
