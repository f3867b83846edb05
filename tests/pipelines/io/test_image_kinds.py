"""Images of any mode, depth, container and metadata, held to tifffile, OpenCV and imagecodecs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segray.pipelines.io.images import ImageOptions, decode
from tests.faults.images import png_chunk

Array = NDArray[Any]
BACKGROUND = (10, 200, 30)

# How an upright image is got from the stored one, after the table of tag 0x0112 in EXIF 2.3.
UPRIGHT: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@dataclass(frozen=True)
class Case:
    """A file, what another reader finds in it as [H, W, C] RGB(A), and how it is to be read."""

    data: bytes
    values: Array
    orientation: int = 1
    alpha: str = "blend"
    rule: str = "auto"
    inverted: bool = False
    tolerance: int = 0


def expected(case: Case) -> NDArray[np.float64]:
    """The rules of docs/annotate.md, written down a second time."""
    values = UPRIGHT[case.orientation](case.values).astype(np.float64)
    full = {"u1": 255.0, "u2": 65535.0, "f4": 1.0}[case.values.dtype.str[1:]]
    colours, opacity = values[..., :3], np.ones(values.shape[:2])
    if values.shape[2] in (2, 4):
        colours = values[..., : values.shape[2] - 1]
        opacity = values[..., -1] / full if case.alpha == "blend" else opacity
    seen = colours[opacity > 0] if (opacity > 0).any() else colours
    low, high = {
        "auto": (0.0, full),
        "full": (0.0, full),
        "minmax": (seen.min(), max(seen.max(), seen.min() + 1e-9)),
        "100,4000": (100.0, 4000.0),
    }[case.rule]
    if case.rule in {"auto", "full"} and full == 255:
        pixels = colours
    else:
        pixels = np.clip(np.floor((colours - low) * (255 / (high - low)) + 0.5), 0, 255)
    pixels = np.broadcast_to(255 - pixels if case.inverted else pixels, (*pixels.shape[:2], 3))
    return pixels * opacity[..., None] + np.array(BACKGROUND) * (1 - opacity[..., None])


def check(case: Case) -> None:
    rules: dict[str, Any] = {"alpha": case.alpha, "range": case.rule}
    image = decode(case.data, ImageOptions(background_color=BACKGROUND, check_span=False, **rules))
    blended = case.alpha == "blend" and case.values.shape[2] in (2, 4)
    difference = np.abs(image - expected(case))
    assert image.shape == difference.shape
    assert difference.max() <= max(case.tolerance, 1 if blended else 0)


def three_axes(values: Array) -> Array:
    return values[..., None] if values.ndim == 2 else values


def swapped(values: Array) -> Array:
    """OpenCV's order of colours, and back."""
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[2]]
    return np.ascontiguousarray(values[..., order])


def opencv(data: bytes) -> Array:
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    assert image is not None
    return swapped(three_axes(np.asarray(image)))


@st.composite
def values_of(draw: Any, dtypes: tuple[Any, ...], channels: tuple[int, ...], least: int = 8) -> Array:
    """Noise that uses all of its range, or a small part of it."""
    dtype, count = np.dtype(draw(st.sampled_from(dtypes))), draw(st.sampled_from(channels))
    height, width = draw(st.integers(least, 40)), draw(st.integers(least, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.kind == "f":
        values = rng.random((height, width, count), np.float32)
    else:
        high = draw(st.sampled_from([256, 3000, 65536])) if dtype.itemsize == 2 else 256
        values = rng.integers(0, high, (height, width, count)).astype(dtype)
    if count in (2, 4):
        values[: height // 2, ..., -1] = draw(st.sampled_from([0, np.iinfo(dtype).max]))
    return values


def rules_of(values: Array) -> st.SearchStrategy[str]:
    """`auto` depends on percentiles where little of the range is used; test_pixel_values.py has these."""
    colours = values[..., :3] if values.shape[2] != 2 else values[..., :1]
    whole = values.dtype.kind == "f" or colours.max() > 0.5 * np.iinfo(values.dtype).max
    wide = ["minmax", "full", "100,4000"] if values.dtype == np.uint16 else ["minmax", "full"]
    return st.sampled_from([*wide, *(["auto"] if whole else [])])


XMP = b'<rdf:Description tiff:Orientation="1" xmlns:tiff="x"/>'
BOMB = zlib.compress(bytes(4 << 20))
PNG_CHUNKS = (
    png_chunk(b"gAMA", struct.pack(">I", 45455)),
    png_chunk(b"sRGB", b"\0"),
    png_chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
    png_chunk(b"iCCP", b"broken\0\0" + b"not zlib"),
    png_chunk(b"iCCP", b"long\0\0" + BOMB),
    png_chunk(b"zTXt", b"Comment\0\0" + BOMB),
    png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP + bytes(2 << 20)),
    png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    png_chunk(b"tEXt", b"Author\0nobody")[:-1] + b"?",
    png_chunk(b"prVt", bytes(70_000)),
    png_chunk(b"tIME", b"\7\xea\1\1\0\0\0"),
)


def orientation_chunk(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return png_chunk(b"eXIf", exif.tobytes()[6:])


@st.composite
def pngs(draw: Any) -> Case:
    values = draw(values_of((np.uint8, np.uint16), (1, 3, 4)))
    plain = cv2.imencode(".png", swapped(values))[1].tobytes()
    chunks = draw(st.lists(st.sampled_from(PNG_CHUNKS), max_size=4))
    turned = draw(st.sampled_from(sorted(UPRIGHT)))
    behind = draw(st.booleans())
    head = b"".join([orientation_chunk(turned), *([] if behind else chunks)])
    data = plain[:33] + head + plain[33:-12] + (b"".join(chunks) if behind else b"") + plain[-12:]
    found = opencv(plain)
    np.testing.assert_array_equal(found, three_axes(imagecodecs.png_decode(plain)))
    alpha = draw(st.sampled_from(["blend", "ignore"]))
    return Case(data, found, turned, alpha, draw(rules_of(values)))


@st.composite
def palettes(draw: Any) -> Case:
    """Palette and 1-bit images, as Pillow writes them; others decode their colours."""
    values = draw(values_of((np.uint8,), (3,)))
    image = Image.fromarray(values)
    kind, mode = draw(st.sampled_from(["PNG", "GIF", "TIFF", "BMP"])), draw(st.sampled_from(["P", "1"]))
    image = image.quantize(draw(st.integers(2, 256))) if mode == "P" else image.convert("1")
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return Case(
        buffer.getvalue(), np.asarray(image.convert("RGB")) if kind == "TIFF" else opencv(buffer.getvalue())
    )


GEO = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0.0,) * 6, True)]


@st.composite
def tiffs(draw: Any) -> Case:
    values = draw(values_of((np.uint8, np.uint16, np.float32), (1, 3)))
    dtype, count = values.dtype, values.shape[2]
    turned = draw(st.sampled_from(sorted(UPRIGHT))) if dtype == np.uint8 else 1
    inverted = count == 1 and draw(st.booleans())
    tags: list[Any] = [(274, "H", 1, turned, True), *(GEO if draw(st.booleans()) else [])]
    packing = draw(
        st.sampled_from([None, "zlib", "lzw", "packbits"] if dtype.kind == "u" else [None, "zlib"])
    )
    options: dict[str, Any] = {
        "photometric": "rgb" if count == 3 else "miniswhite" if inverted else "minisblack",
        "compression": packing,
        "predictor": 2 if packing in {"zlib", "lzw"} and dtype.kind == "u" and draw(st.booleans()) else None,
        "planarconfig": "contig",
        "extratags": tags,
        **draw(st.sampled_from([{}, {"tile": (16, 16)}, {"rowsperstrip": 3}])),
    }
    stored = values
    if count == 3 and draw(st.booleans()):
        options["planarconfig"], stored = "separate", np.ascontiguousarray(np.moveaxis(values, 2, 0))
    form = draw(st.sampled_from([{}, {"bigtiff": True}, {"byteorder": ">"}]))
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **form) as writer:
        overview = np.zeros((9, 9), np.uint8)
        if draw(st.booleans()):
            writer.write(overview, subfiletype=1, photometric="minisblack")
        writer.write(
            stored if count == 3 else stored[..., 0], **{**options, "planarconfig": _planes(options, count)}
        )
        if draw(st.booleans()):
            writer.write(overview, subfiletype=1, photometric="minisblack")
            writer.write(overview > 3, subfiletype=5, photometric="mask")
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as tiff:
        found = next(page.asarray() for page in tiff.pages if not getattr(page, "subfiletype", 0))
    found = np.moveaxis(found, 0, -1) if options["planarconfig"] == "separate" else three_axes(found)
    np.testing.assert_array_equal(found, values)
    # Half a level may be rounded before or after the values are inverted.
    return Case(file.getvalue(), found, turned, "blend", draw(rules_of(values)), inverted, int(inverted))


def _planes(options: dict[str, Any], count: int) -> str | None:
    return options["planarconfig"] if count == 3 else None


@st.composite
def others(draw: Any) -> Case:
    """Containers with a lossless kind of their own."""
    name = draw(st.sampled_from(["webp", "bmp", "pnm", "jpeg2000", "avif", "heic"]))
    dtypes: tuple[Any, ...] = (np.uint8, np.uint16) if name in {"pnm", "jpeg2000"} else (np.uint8,)
    channels = {"webp": (3, 4), "bmp": (1, 3), "pnm": (1, 3), "heic": (3, 4)}.get(name, (1, 3))
    values = draw(values_of(dtypes, channels, least=16))
    return Case(*CONTAINERS[name](values), rule=draw(rules_of(values)))


def _webp(values: Array) -> tuple[bytes, Array]:
    data = imagecodecs.webp_encode(values, lossless=True, level=6)
    return bytes(data), imagecodecs.webp_decode(data)


def _opencv(ending: str) -> Callable[[Array], tuple[bytes, Array]]:
    def encode(values: Array) -> tuple[bytes, Array]:
        data = cv2.imencode(ending, swapped(values))[1].tobytes()
        return data, opencv(data)

    return encode


def _jpeg2000(values: Array) -> tuple[bytes, Array]:
    data = bytes(imagecodecs.jpeg2k_encode(values if values.shape[2] == 3 else values[..., 0], level=0))
    return data, three_axes(imagecodecs.jpeg2k_decode(data))


def _avif(values: Array) -> tuple[bytes, Array]:
    values = np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))
    data = bytes(imagecodecs.avif_encode(values, level=100))
    return data, imagecodecs.avif_decode(data)


def _heic(values: Array) -> tuple[bytes, Array]:
    """No other reader here knows it: what was written is what counts."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(values)).save(
        buffer, quality=-1, matrix_coefficients=0, chroma=444
    )
    return buffer.getvalue(), values


CONTAINERS: dict[str, Callable[[Array], tuple[bytes, Array]]] = {
    "webp": _webp,
    "bmp": _opencv(".bmp"),
    "pnm": _opencv(".pnm"),
    "jpeg2000": _jpeg2000,
    "avif": _avif,
    "heic": _heic,
}

many = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@many
@given(pngs())
def test_png_of_any_depth_and_metadata(case: Case) -> None:
    check(case)


@many
@given(palettes())
def test_palettes_and_1_bit(case: Case) -> None:
    check(case)


@many
@given(tiffs())
def test_tiff_of_any_layout(case: Case) -> None:
    check(case)


@many
@given(others())
def test_other_containers(case: Case) -> None:
    check(case)


@many
@given(values_of((np.uint8,), (1, 3), least=16), st.sampled_from([cv2.IMWRITE_JPEG_PROGRESSIVE, None]))
def test_jpeg_to_a_level_or_two(values: Array, option: int | None) -> None:
    smooth = cv2.GaussianBlur(np.ascontiguousarray(values), (0, 0), 3)
    data = cv2.imencode(".jpg", smooth, [option, 1] if option else [])[1].tobytes()
    check(Case(data, opencv(data), tolerance=3))
