"""The line that says what values the images have, and what becomes of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from segray.pipelines.engine import image_values
from segray.pipelines.engine.image_values import Looked, pending_lines, value_lines
from segray.pipelines.io import images
from segray.pipelines.io.decoder_process import DecoderDiedError, decoder
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.sources import list_images


def deep(path: Path, low: int, high: int) -> list[float]:
    """Write an image of 16 bits; its 1st and 99th percentile."""
    values = np.linspace(low, high, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(values).save(path)
    return [float(value) for value in np.percentile(values, (1, 99))]


def photo(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(path)


def lines(folder: Path, **options: str) -> list[str]:
    refs = list(list_images(str(folder)))
    return pending_lines(refs, len(refs), ImageOptions(**options))  # type: ignore[arg-type]


def test_16_bits_of_a_small_range_are_said_with_what_is_made_of_them_and_the_key(tmp_path: Path) -> None:
    black, white = deep(tmp_path / "a.tif", 100, 2000)
    deep(tmp_path / "b.png", 300, 3000)
    (line,) = lines(tmp_path)
    assert line == (
        "values      uint16, 100 to 3000, in 2 of 2 images looked at; "
        f"image.range=auto makes {black:g} black and {white:g} white in a.tif, each image by itself; "
        "image.range=LO,HI sets one range for all"
    )


@pytest.mark.parametrize(("rule", "black", "white"), [("0,3000", "0", "3000"), ("full", "0", "65535")])
def test_a_range_for_all_images_needs_no_advice(tmp_path: Path, rule: str, black: str, white: str) -> None:
    deep(tmp_path / "a.tif", 0, 60_000)
    (line,) = lines(tmp_path, range=rule)
    assert line.endswith(f"; image.range={rule} makes {black} black and {white} white")


def test_kinds_of_values_have_a_line_each(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "b.png")
    deep(tmp_path / "c.tif", 100, 2000)
    Image.fromarray(np.linspace(-1, 7, 256, dtype=np.float32).reshape(16, 16)).save(tmp_path / "d.tif")
    starts = [line.split(";")[0] for line in lines(tmp_path)]
    assert starts == [
        "values      decode to 8 bits, taken as they are, in 2 of 4 images looked at",
        "values      uint16, 100 to 2000, in 1 of 4 images looked at",
        "values      float32, -1 to 7, in 1 of 4 images looked at",
    ]


def test_8_bits_that_are_stretched_are_said(tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).repeat(4).reshape(16, 16)).save(tmp_path / "a.png")
    (line,) = lines(tmp_path, range="minmax")
    assert "uint8, 0 to 63, in 1 of 1 images looked at; image.range=minmax makes 0 black and 63 white" in line


def test_bad_images_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"no picture")
    deep(tmp_path / "b.tif", 100, 2000)
    assert lines(tmp_path)[0].startswith("values      uint16, 100 to 2000, in 1 of 1 images looked at")
    (tmp_path / "b.tif").unlink()
    assert lines(tmp_path) == []
    assert value_lines([]) == []


def test_no_image_is_decoded_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep(tmp_path / "a.tif", 100, 2000)
    monkeypatch.setattr(images, "decode_image", None)
    assert lines(tmp_path)[0].startswith("values      uint16, 100 to 2000, in 1 of 1 images looked at")


@pytest.mark.parametrize("end", [TimeoutError, DecoderDiedError])
def test_an_image_that_kills_its_process_is_passed_over(
    end: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise end

    deep(tmp_path / "a.tif", 100, 2000)
    monkeypatch.setattr(decoder, "call", dies)
    assert lines(tmp_path) == []


def test_black_and_white_of_a_negative_are_told_as_they_come_out(tmp_path: Path) -> None:
    values = np.linspace(100, 2000, 256).astype(np.uint16).reshape(16, 16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    assert "image.range=minmax makes 2000 black and 100 white" in lines(tmp_path, range="minmax")[0]


def test_large_whole_numbers_are_told_in_full(tmp_path: Path) -> None:
    values = np.linspace(0, 1_234_567, 256).astype(np.int32).reshape(16, 16)
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert "image.range=minmax makes 0 black and 1234567 white" in lines(tmp_path, range="minmax")[0]


def test_a_png_that_ends_in_its_head_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    assert lines(tmp_path) == []


def test_the_images_that_are_looked_at_are_spread_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")

    def reading(uri: str, *_: object, **__: object) -> bytes:
        read.append(uri)
        return data.getvalue()

    monkeypatch.setattr(image_values, "read_allowed", reading)
    pending_lines((ImageRef(f"{n}", f"{n}") for n in range(41)), 41, ImageOptions())
    assert read == ["0", "10", "20", "30", "40"]
    read.clear()
    assert value_lines([Looked("a", "a", ImageOptions())], "data.image.range")
    assert read == ["a"]


def test_images_out_of_bounds_are_not_opened(tmp_path: Path) -> None:
    deep(tmp_path / "a.tif", 100, 2000)
    options = ImageOptions(roots=(str(tmp_path / "below"),))
    assert value_lines([Looked("a.tif", str(tmp_path / "a.tif"), options)]) == []
