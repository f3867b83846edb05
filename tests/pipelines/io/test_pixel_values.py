"""16-bit and float images, bands and transparency, as tifffile and OpenCV write them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from segray.pipelines.config.images import PixelConfig
from segray.pipelines.io import images, wide_values
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode, decode_alone
from segray.pipelines.io.pixel_values import parse_range, to_8_bits

HEIGHT, WIDTH = 20, 30
Array = NDArray[Any]


def tiff(values: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def png(values: Array) -> bytes:
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[2]]
    return bytes(cv2.imencode(".png", values[..., order])[1])


def noise(high: int, channels: int = 3, dtype: Any = np.uint16) -> Array:
    return np.random.default_rng(0).integers(0, high, (HEIGHT, WIDTH, channels)).astype(dtype)


def reason(data: bytes, **rules: Any) -> str:
    with pytest.raises(ImageProblem) as caught:
        decode(data, ImageOptions(**rules))
    assert caught.value.status == "error"
    return caught.value.reason


def separate(values: Array) -> bytes:
    return tiff(np.moveaxis(values, 2, 0), photometric="rgb", planarconfig="separate")


WRITERS: dict[str, Callable[[Array], bytes]] = {
    "png": png,
    "little": lambda v: tiff(v, photometric="rgb"),
    "big endian": lambda v: tiff(v, photometric="rgb", byteorder=">"),
    "deflate": lambda v: tiff(v, photometric="rgb", compression="zlib"),
    "lzw": lambda v: tiff(v, photometric="rgb", compression="lzw", predictor=2),
    "bigtiff": lambda v: tiff(v, photometric="rgb", bigtiff=True),
    "separate": separate,
    "float": lambda v: tiff(v.astype(np.float32), photometric="rgb"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_16_bit_colours_keep_their_low_bytes(writer: str) -> None:
    values = noise(3000)
    expected = np.floor(values * (255 / 2999) + 0.5)
    np.testing.assert_array_equal(decode(WRITERS[writer](values), ImageOptions(range="0,2999")), expected)


def test_compressed_big_endian_values_keep_their_order() -> None:
    """Pillow swaps what libtiff has swapped already."""
    for dtype in ("int16", "int32", "uint32", "float32", "float64"):
        values = noise(3000, 1)[..., 0].astype(dtype)
        image = decode(tiff(values, byteorder=">", compression="zlib"), ImageOptions(range="minmax"))
        np.testing.assert_array_equal(image, decode(tiff(values), ImageOptions(range="minmax")))


def test_jpeg_2000_of_16_bits_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(imagecodecs.jpeg2k_encode(noise(3000), level=0))
    expected = np.floor(noise(3000) * (255 / 2999) + 0.5)
    np.testing.assert_array_equal(decode(data, ImageOptions(range="0,2999")), expected)
    monkeypatch.setattr(wide_values, "find_spec", lambda name: None)
    with pytest.raises(ImageProblem, match="of 16 bits per colour: pip install"):
        decode_alone(data, ImageOptions())


GREY: dict[str, Callable[[Array], bytes]] = {
    "png": lambda v: png(v[..., None]),
    "uint16": tiff,
    "int16": lambda v: tiff(v.astype(np.int16)),
    "uint32": lambda v: tiff(v.astype(np.uint32)),
    "float32": lambda v: tiff(v.astype(np.float32)),
    "float64": lambda v: tiff(v.astype(np.float64)),
}


@pytest.mark.parametrize("writer", GREY)
def test_grey_of_a_small_range_is_stretched_by_default(writer: str) -> None:
    values = noise(257, 1)[..., 0]
    image = decode(GREY[writer](values), ImageOptions())
    low, high = np.percentile(values, (1, 99))
    expected = np.clip(np.floor((values - low) * (255 / (high - low)) + 0.5), 0, 255)
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, 2))


def test_white_is_zero_is_turned_round() -> None:
    values = noise(3000, 1)[..., 0]
    straight = decode(tiff(values), ImageOptions(range="minmax"))
    turned = decode(tiff(values, photometric="miniswhite"), ImageOptions(range="minmax"))
    np.testing.assert_array_equal(turned, 255 - straight)


@pytest.mark.parametrize(
    ("rule", "low", "high"),
    [("auto", 0, 65535), ("full", 0, 65535), ("minmax", 5, 60000), ("100,200", 100, 200)],
)
def test_rules(rule: str, low: float, high: float) -> None:
    values = np.array([[5, 150, 60000]], np.uint16)
    expected = np.clip(np.floor((values.astype(float) - low) * (255 / (high - low)) + 0.5), 0, 255)
    np.testing.assert_array_equal(to_8_bits(values, rule)[0], expected)


def test_floats_of_0_to_1_are_taken_as_they_are() -> None:
    values = np.array([[0.0, 0.25, 0.9]], np.float32)
    assert to_8_bits(values, "auto")[0].tolist() == [[0, 64, 229]]
    assert to_8_bits(values / 100, "auto")[0].tolist()[0][::2] == [0, 255]


def test_values_that_mean_nothing_do_not_set_the_range() -> None:
    values = noise(1000, 1, np.float32)[..., 0]
    plain = decode(tiff(values), ImageOptions())
    values[0, :10], values[1, :10] = -9999, np.nan
    image = decode(tiff(values, extratags=[(42113, "s", 0, "-9999", True)]), ImageOptions())
    assert image[0, :10].max() == image[1, :10].max() == 0
    assert np.abs(image[2:].astype(int) - plain[2:]).max() <= 4


def test_a_small_range_of_8_bits_is_no_quiet_image_and_can_be_stretched() -> None:
    data = png(noise(6, 3, np.uint8))
    line = "next to nothing to see: it decodes to 0 to 5 of 255; image.range=minmax or LO,HI stretches"
    assert reason(data) == f"{line} the values"
    assert decode(data, ImageOptions(range="minmax")).max() == 255
    assert decode(data, ImageOptions(check_span=False)).max() == 5


def test_16_bits_that_decode_to_next_to_nothing_are_no_quiet_image() -> None:
    assert reason(tiff(noise(257, 1)[..., 0]), range="full").startswith(
        "next to nothing to see: it decodes to 0 to 1 of 255 (values 0 to 256); image.range=minmax"
    )
    assert "10 to 10 of 255" in reason(tiff(np.full((9, 9), 2570, np.uint16)))


def test_a_blank_8_bit_image_is_fine_and_a_transparent_one_is_not() -> None:
    assert (decode(png(np.full((9, 9, 3), 7, np.uint8)), ImageOptions()) == 7).all()
    clear = np.dstack([noise(255, 3, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)])
    assert reason(png(clear)).endswith("image.alpha=ignore shows what is transparent")
    np.testing.assert_array_equal(decode(png(clear), ImageOptions(alpha="ignore")), clear[..., :3])


def rgbn(geo: bool) -> bytes:
    tags = [(33550, "d", 3, (0.5, 0.5, 0.0), True)] if geo else []
    return tiff(noise(255, 4, np.uint8), photometric="rgb", extrasamples=["unassalpha"], extratags=tags)


def test_the_fourth_band_of_a_geotiff_is_data() -> None:
    values = noise(255, 4, np.uint8)
    np.testing.assert_array_equal(decode(rgbn(geo=True), ImageOptions()), values[..., :3])
    np.testing.assert_array_equal(
        decode(rgbn(geo=True), ImageOptions(bands=(4, 1, 2))), values[..., [3, 0, 1]]
    )
    assert (decode(rgbn(geo=True), ImageOptions(alpha="blend")) != values[..., :3]).any()


def test_a_fourth_band_that_looks_like_data_is_asked_about() -> None:
    assert reason(rgbn(geo=False)) == (
        "the fourth band is marked as transparency, but looks like data (0 to 253); "
        "image.alpha=ignore leaves it out, image.alpha=blend takes it as transparency"
    )
    image = decode(rgbn(geo=False), ImageOptions(alpha="ignore"))
    np.testing.assert_array_equal(image, noise(255, 4, np.uint8)[..., :3])


def test_a_mask_as_fourth_band_is_transparency() -> None:
    values = noise(255, 4, np.uint8)
    values[..., 3] = 255
    values[:5, :, 3] = 0
    image = decode(tiff(values, photometric="rgb", extrasamples=["unassalpha"]), ImageOptions())
    assert (image[:5] == 255).all()
    np.testing.assert_array_equal(image[5:], values[5:, :, :3])


def test_transparent_16_bit_pixels_do_not_set_the_range() -> None:
    values = np.dstack([noise(3000), np.full((HEIGHT, WIDTH), 65535, np.uint16)])
    values[:5, :, 3], values[:5, :, :3] = 0, 60000
    image = decode(png(values), ImageOptions(background_color=(9, 9, 9)))
    assert (image[:5] == 9).all()
    assert image[5:].max() == 255


def test_many_bands_name_the_key() -> None:
    values = noise(255, 6, np.uint8)
    data = tiff(values, photometric="minisblack", planarconfig="contig")
    assert reason(data) == (
        "6 bands of uint8, and nothing says which are red, green and blue; image.bands=1,2,3 says so"
    )
    np.testing.assert_array_equal(decode(data, ImageOptions(bands=(6, 2, 1))), values[..., [5, 1, 0]])
    np.testing.assert_array_equal(decode(data, ImageOptions(bands=(2,)))[..., 2], values[..., 1])
    assert reason(data, bands=(7,)) == "image.bands=7: the image has 6 bands"
    assert reason(png(noise(255, 3, np.uint8)), bands=(1, 2, 4)) == "image.bands=1,2,4: the image has 3 bands"


def test_without_the_extra_the_reason_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    data = tiff(noise(255, 5, np.uint8), photometric="minisblack", planarconfig="contig")
    line = 'a TIFF of 5 bands of 8 bits: pip install "segray[tiff]" reads it, with image.bands=1,2,3'
    assert reason(data) == line


def test_the_size_is_checked_before_bands_are_decoded() -> None:
    data = tiff(noise(255, 5, np.uint8), photometric="minisblack", planarconfig="contig")
    assert reason(data, max_pixels=500).startswith("too large (0.0006 MP > limit 0.0005 MP)")


@pytest.mark.parametrize("text", ["", "3", "9,1", "a,b", "1,nan", "1,2,3", "stretch"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a range \(allowed: auto, full, minmax, percentile, or two"):
        parse_range(text)
    assert parse_range("-1.5, 2e3") == (-1.5, 2000.0)


def test_two_bands_are_refused_in_the_configuration() -> None:
    with pytest.raises(ValueError, match="2 bands"):
        PixelConfig(bands=(1, 2))
