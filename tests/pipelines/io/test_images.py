from __future__ import annotations

import pickle
import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from segray.pipelines.io import images
from segray.pipelines.io.images import ImageOptions, ImageProblem, decode, decode_image
from tests.faults.images import HEIGHT, WIDTH, bad_files, encode, good_files, png, scene

OPTIONS = ImageOptions()
BAD, GOOD = bad_files(), good_files()
SCENE = scene()


def problem(data: bytes, options: ImageOptions = OPTIONS) -> ImageProblem:
    with pytest.raises(ImageProblem) as caught:
        decode(data, options)
    return caught.value


def error_close(image: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    return float(np.abs(image.astype(int) - expected.astype(int)).mean())


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_have_a_status_and_a_reason(name: str) -> None:
    data, status, reason = BAD[name]
    found = problem(data)
    assert found.status == status
    assert found.reason.startswith(reason)
    assert "\n" not in found.reason


@pytest.mark.parametrize("name", BAD)
def test_reasons_are_the_same_on_every_run(name: str) -> None:
    data = BAD[name][0]
    assert problem(data).reason == problem(bytes(data)).reason
    assert not re.search("0x[0-9a-f]{4}", problem(data).reason)


@pytest.mark.parametrize("name", GOOD)
def test_odd_and_fine_pictures_decode(name: str) -> None:
    image = decode(GOOD[name], OPTIONS)
    upright = (WIDTH, HEIGHT, 3) if name[:5] in {"exif5", "exif6", "exif7", "exif8"} else (HEIGHT, WIDTH, 3)
    assert image.shape == upright
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert image.min() < image.max()


@pytest.mark.parametrize("name", ["modern.webp", "scan.tiff", "old.bmp", "really_a_png.jpg", "cmyk.jpg"])
def test_colours_survive(name: str) -> None:
    assert error_close(decode(GOOD[name], OPTIONS), SCENE) < 6


# How the stored frame is got from the upright one, after the EXIF 2.3 table of tag 0x0112.
STORED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(orientation: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_AT_ONCE", 5 * SCENE.shape[1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](SCENE)))
    options: dict[str, Any] = {"quality": 100, "lossless": True} if name in {"WEBP", "AVIF"} else {}
    image = decode(encode(stored, name, exif=exif, **options), OPTIONS)
    assert image.shape == SCENE.shape
    assert error_close(image, SCENE) < 2


@pytest.mark.parametrize("orientation", [1, *STORED])
def test_a_large_jpeg_is_reduced_and_no_smaller_than_asked_for(orientation: int) -> None:
    # Twice as wide as high: 4 would leave 100 of the 101 pixels that the long side must keep.
    whole = np.asarray(Image.fromarray(SCENE).resize((401, 203), Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED.get(orientation, lambda a: a)(whole)))
    data = encode(stored, "JPEG", exif=exif, quality=95)
    found = decode_image(data, replace(OPTIONS, jpeg_size=(102, 40)))
    assert (found.height, found.width, found.reduced) == (203, 401, 2)
    assert found.pixels.shape == (102, 201, 3)
    small = np.asarray(Image.fromarray(whole).resize((201, 102), Image.Resampling.BOX))
    assert error_close(found.pixels, small) < 6
    assert decode_image(data, replace(OPTIONS, jpeg_size=(202, 40))).reduced == 1
    assert decode_image(data, replace(OPTIONS, jpeg_size=(20, 30))).reduced == 4
    assert np.array_equal(decode_image(data, OPTIONS).pixels, decode(data, OPTIONS))


def test_a_side_that_reduces_to_the_other_is_not_mistaken_for_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (400, 399)), "JPEG", exif=exif)
    found = decode_image(data, replace(OPTIONS, jpeg_size=(50, 50)))
    assert (found.height, found.width, found.pixels.shape) == (400, 399, (100, 100, 3))


def test_only_jpeg_is_reduced() -> None:
    found = decode_image(encode(Image.fromarray(SCENE), "PNG"), replace(OPTIONS, jpeg_size=(8, 8)))
    assert found.reduced == 1
    np.testing.assert_array_equal(found.pixels, SCENE)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_lose_the_picture() -> None:
    data = encode(Image.fromarray(SCENE), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data, OPTIONS), SCENE)


@pytest.mark.parametrize("name", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(name: str) -> None:
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    image = decode(encode(Image.fromarray(values), name), OPTIONS)
    np.testing.assert_array_equal(image[..., 0], np.rint(values / 257))
    assert (image[..., 0] == image[..., 2]).all()


def test_a_dark_16_bit_picture_stays_dark_in_its_full_range() -> None:
    values = np.linspace(0, 2570, 81).astype(np.uint16).reshape(9, 9)
    assert decode(encode(Image.fromarray(values), "PNG"), replace(OPTIONS, range="full")).max() == 10


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("background_color", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
def test_transparency_shows_the_background_color(mode: str, background_color: tuple[int, int, int]) -> None:
    options = replace(OPTIONS, background_color=background_color)
    image = Image.new("RGBA", (16, 16), (80, 80, 80, 255))
    image.paste((90, 90, 90, 0), (0, 0, 8, 16))
    decoded = decode(encode(image.convert(mode), "PNG"), options)
    assert (decoded[:, :8] == background_color).all()
    assert error_close(decoded[:, 8:], np.full((16, 8, 3), 80, np.uint8)) < 3


def test_half_transparent_is_a_mix() -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 128))
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    decoded = decode(encode(image, "PNG"), OPTIONS)[:, 8:]
    assert (np.abs(decoded.astype(int) - 127) <= 1).all()


@pytest.mark.parametrize("name", ["animated.gif", "animated.png", "animated.webp", "pages.tif"])
def test_first_frame_by_option(name: str) -> None:
    image = decode(BAD[name][0], replace(OPTIONS, frames="first"))
    assert error_close(image, SCENE) < 12


def test_max_pixels_is_checked_before_decoding() -> None:
    exact = replace(OPTIONS, max_pixels=HEIGHT * WIDTH)
    data = encode(Image.fromarray(SCENE), "PNG")
    assert decode(data, exact).shape == SCENE.shape
    smaller = replace(OPTIONS, max_pixels=HEIGHT * WIDTH - 1)
    assert problem(data, smaller).reason == "too large (0.003072 MP > limit 0.003071 MP)"
    cut_and_large = data[: len(data) // 2]
    assert problem(cut_and_large, smaller).reason.startswith("too large")


def test_max_pixels_above_pillows_own_limit() -> None:
    lying = png(20000, 20000, b"")
    assert problem(lying).reason == "too large (400 MP > limit 100 MP)"
    wide = png(100_000, 9, b"\0")
    assert problem(wide, replace(OPTIONS, max_pixels=10**9)).reason == "truncated"


def test_a_webp_header_beyond_pillows_limit() -> None:
    data = bytearray(encode(Image.fromarray(SCENE), "WEBP", lossless=True))
    size = 16383 | 16383 << 14
    data[21:25] = (int.from_bytes(data[21:25], "little") & ~((1 << 28) - 1) | size).to_bytes(4, "little")
    assert problem(bytes(data)).reason == "too large (268.435 MP > limit 100 MP)"


def test_min_size_counts_the_shorter_side() -> None:
    data = encode(Image.fromarray(scene(12, 40)), "PNG")
    assert decode(data, replace(OPTIONS, min_size=12)).shape == (12, 40, 3)
    assert problem(data, replace(OPTIONS, min_size=13)).reason == "too small (40x12 px, min_size is 13)"


def test_pillows_global_state_is_left_alone() -> None:
    before = (Image.MAX_IMAGE_PIXELS, list(warnings.filters), ImageFile.LOAD_TRUNCATED_IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inside = list(warnings.filters)
        for data, status, _reason in BAD.values():
            assert problem(data).status == status
        for data in GOOD.values():
            decode(data, OPTIONS)
        assert list(warnings.filters) == inside
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters), ImageFile.LOAD_TRUNCATED_IMAGES) == before
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_problems_travel_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(ImageProblem("skipped", "animated (3 frames)")))
    assert (copy.status, copy.reason) == ("skipped", "animated (3 frames)")


FUZZED = {
    **{
        name: GOOD[name]
        for name in ("exif6.jpg", "palette_clear.png", "gray16.png", "modern.webp", "still.gif")
    },
    **{name: GOOD[name] for name in ("scan.tiff", "old.bmp", "plain.ppm", "two_previews.jpg", "cmyk.jpg")},
    **{name: BAD[name][0] for name in ("animated.gif", "animated.png", "animated.webp", "pages.tif")},
    "jpeg2000": encode(Image.fromarray(SCENE), "JPEG2000"),
    "avif": encode(Image.fromarray(SCENE), "AVIF"),
}


def attempt(data: bytes, options: ImageOptions) -> NDArray[np.uint8] | ImageProblem:
    try:
        return decode(data, options)
    except ImageProblem as found:
        return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUZZED)
def test_damaged_bytes_never_raise_anything_else(name: str) -> None:
    rng = np.random.default_rng(sum(name.encode()))
    options = ImageOptions(max_pixels=1_000_000, frames="first")
    for _ in range(60):
        data = bytearray(FUZZED[name])
        for position in rng.integers(0, len(data), rng.integers(0, 6)):
            data[position] = rng.integers(0, 256)
        for position in rng.integers(0, min(64, len(data)), rng.integers(0, 3)):
            data[position] ^= 1 << rng.integers(0, 8)
        cut = bytes(data[: rng.integers(0, len(data) + 1)] if rng.random() < 0.5 else data)
        outcome = attempt(cut, options)
        if isinstance(outcome, ImageProblem):
            assert outcome.status in {"error", "skipped"}
            assert outcome.reason
            assert "\n" not in outcome.reason
        else:
            assert outcome.dtype == np.uint8
            assert outcome.ndim == 3
            assert outcome.shape[2] == 3


@pytest.mark.filterwarnings("ignore")
def test_noise_behind_every_signature() -> None:
    rng = np.random.default_rng(7)
    for data in FUZZED.values():
        for keep in (4, 12, 30):
            noise = data[:keep] + rng.bytes(200)
            assert problem(noise, ImageOptions(max_pixels=1_000_000)).reason
