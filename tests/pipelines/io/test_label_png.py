from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segray.pipelines.io import label_png
from segray.pipelines.io.label_png import decode_gray_png, encode_gray_png
from tests.faults.images import HEIGHT, WIDTH, encode, good_files, png, scene


def label_map(height: int, width: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height)
    blocks = rng.integers(0, 12, (height // 8 + 1, width // 8 + 1), np.uint8)
    labels = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
    labels[0, 0] = 255
    return labels


@pytest.mark.parametrize("size", [(1, 1), (48, 64), (37, 101), (300, 7)])
def test_gray_png_is_read_alike_by_all(size: tuple[int, int]) -> None:
    labels = label_map(*size)
    data = encode_gray_png(labels)
    np.testing.assert_array_equal(decode_gray_png(data), labels)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), labels)


def test_gray_png_in_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    labels = label_map(37, 101)
    buffer = np.frombuffer(encode_gray_png(labels), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED), labels)


def test_gray_png_in_torchvision() -> None:
    torch = pytest.importorskip("torch")
    io_module: Any = pytest.importorskip("torchvision.io")
    labels = label_map(37, 101)
    tensor = torch.frombuffer(bytearray(encode_gray_png(labels)), dtype=torch.uint8)
    np.testing.assert_array_equal(io_module.decode_png(tensor)[0].numpy(), labels)


def test_gray_png_rows_have_no_filter_and_any_view_is_taken() -> None:
    labels = label_map(48, 64)[::2, ::-1]
    data = encode_gray_png(labels)
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    rows = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8).reshape(24, 65)
    assert (rows[:, 0] == 0).all()
    np.testing.assert_array_equal(rows[:, 1:], labels)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), bool),
        np.zeros((2, 2), np.int64),
        np.zeros((2, 2, 3), np.uint8),
        np.zeros((0, 2), np.uint8),
    ],
)
def test_only_uint8_maps_are_encoded(array: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="needs uint8"):
        encode_gray_png(array)


@pytest.mark.parametrize("colours", [2, 12, 200])
def test_palette_indices_are_kept(colours: int) -> None:
    """Pillow writes few colours with 1 or 4 bits per pixel, as in Pascal VOC's masks."""
    indices = (np.arange(HEIGHT * WIDTH) % colours).astype(np.uint8).reshape(HEIGHT, WIDTH)
    image = Image.fromarray(indices)
    image.putpalette([value % 256 for value in range(3 * colours)])
    data = encode(image, "PNG")
    assert (data[24], data[25]) == ({2: 1, 12: 4, 200: 8}[colours], 3)
    np.testing.assert_array_equal(decode_gray_png(data), indices)


def refusal(data: bytes) -> str:
    with pytest.raises(ValueError, match=r"PNG") as caught:
        decode_gray_png(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_pngs_are_refused_as_labels() -> None:
    image = Image.fromarray(scene())
    allowed = "; a label map is an 8-bit greyscale or a palette PNG, not interlaced"
    assert refusal(encode(image, "PNG")) == "8-bit RGB PNG" + allowed
    assert refusal(encode(image.convert("RGBA"), "PNG")) == "8-bit RGBA PNG" + allowed
    assert refusal(encode(image.convert("LA"), "PNG")) == "8-bit greyscale with alpha PNG" + allowed
    assert refusal(encode(image.convert("1"), "PNG")) == "1-bit greyscale PNG" + allowed
    assert refusal(good_files()["gray16.png"]) == "16-bit greyscale PNG" + allowed
    assert refusal(encode(image, "JPEG")) == "not a PNG"
    assert refusal(b"") == "not a PNG (empty)"
    assert refusal(png(16_000, 16_000, b"", colour=0)) == (
        "damaged PNG: the pixels need 256016000 bytes, it holds 0 or more"
    )


def test_no_cut_or_flipped_label_is_taken() -> None:
    data = encode_gray_png(label_map(16, 24))
    for end in range(len(data)):
        assert refusal(data[:end])
    for position in range(len(data)):
        for bit in (0, 7):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            assert refusal(bytes(damaged))


@pytest.mark.parametrize(("rows", "inflated"), [(0, 0), (8, 200), (15, 375), (17, 401), (100_000, 401)])
def test_a_label_with_missing_or_further_rows_is_inflated_up_to_its_size(rows: int, inflated: int) -> None:
    why = refusal(png(24, 16, bytes(25 * rows), colour=0))
    assert why == f"damaged PNG: the pixels need 400 bytes, it holds {inflated} or more"


def test_filtered_rows_are_read() -> None:
    """Other programs filter: type 1 (Sub) adds the pixel to the left, by RFC 2083 section 6.3."""
    rows = b"".join(bytes([1, 5] + [1] * 23) for _ in range(16))
    np.testing.assert_array_equal(
        decode_gray_png(png(24, 16, rows, colour=0)), np.tile(np.arange(5, 29), (16, 1))
    )


@pytest.mark.parametrize(("width", "height"), [(1 << 14, (1 << 14) + 1), (1 << 30, 1 << 30)])
def test_a_map_of_too_many_pixels_is_not_unpacked(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_png, "inflate", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(ValueError, match=rf"a PNG of {width}x{height} pixels \(allowed: at most 268435456\)"):
        decode_gray_png(png(width, height, b"\0", colour=0))
