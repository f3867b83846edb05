"""Decode any image to an upright RGB array, or give one clear reason."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from segray.pipelines.io import heif, tiff_bands
from segray.pipelines.io.decoder_process import DecoderDiedError, decoder
from segray.pipelines.io.image_cost import (
    COUNT_READS,
    MAX_SCANS,
    TimedFile,
    TookTooLongError,
    TooManyReadsError,
    is_unstoppable,
    jpeg_scans,
)
from segray.pipelines.io.pixel_values import PixelProblem, PixelRules, ValueRange
from segray.pipelines.io.png_chunks import SIGNATURE, check_png, for_pixels
from segray.pipelines.io.rgb import bands_to_rgb, to_rgb
from segray.pipelines.io.tiff_frames import TiffProblem, is_tiff, single_image
from segray.pipelines.io.wide_values import keep_byte_order, wide_values

UInt8Array = NDArray[np.uint8]

# Formats are named, not "whatever Pillow knows": its EPS reader, for one, starts Ghostscript on the bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
_BROKEN_HEADER = (SyntaxError, IndexError, TypeError, KeyError, struct.error, OSError)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS, _LAST_ROW_FIRST = frozenset({5, 6, 7, 8}), frozenset({3, 4, 6, 7})
"""Orientations in which stored rows are columns, and in which the last one comes first."""
_LOOKED_AT = 25_000_000
"""Pixels whose memory a process gets that only looks at the values."""
_AT_ONCE = 1 << 18
"""Pixels that are copied at once."""
_WIDTH, _HEIGHT = 256, 257
_USUAL_BYTES = 8
"""Of a pixel with four bands of 16 bits: decoding takes up to 25. Pixels with more count as several."""
_PLAIN = (b"P1", b"P2", b"P3")
_COMMENT = re.compile(rb"#[^\r\n]*")
_CUT = ("truncated", "unexpected end of file")


@dataclass(frozen=True)
class ImageOptions(PixelRules):
    """Which images are accepted, and how their values become pixels.

    Attributes:
        max_pixels: width times height above this is refused from the header, before any pixel is decoded;
            of pixels with more than 8 bytes, fewer are allowed.
        max_side: longest side in pixels, from the header too.
        max_seconds: an image that takes longer to decode is given up.
        min_size: shortest side in pixels.
        frames: what to do with animations and multi-page files: skip them, or take the first frame.
        jpeg_size: minimum (long side, short side) of a reduced JPEG in pixels; None: do not reduce.
        roots: the folders and files of the user below which an image must be; None: anywhere.
        follow_links: links below the roots may lead out of them.
    """

    max_pixels: int = 100_000_000
    max_side: int = 100_000
    max_seconds: float = 30.0
    min_size: int = 8
    frames: Literal["skip", "first"] = "skip"
    jpeg_size: tuple[int, int] | None = None
    roots: tuple[str, ...] | None = None
    follow_links: bool = False


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image, upright.

    Attributes:
        pixels: uint8 RGB, [ceil(height / reduced), ceil(width / reduced), 3].
        height: of the image before reduction, in pixels.
        width: of the image before reduction, in pixels.
        reduced: 1, 2, 4 or 8.
        values: of the decoded image, where they were made 8 bits by `PixelRules.range`; None: it had 8.
    """

    pixels: UInt8Array
    height: int
    width: int
    reduced: int
    values: ValueRange | None = None


class ImageProblem(Exception):  # noqa: N818 (a skipped image is not an error)
    """Why an image cannot be used: `status` and one line, the same on every run.

    Args:
        status: "error" for a bad file, "skipped" for a valid file that is not a single image.
        reason: one line.
    """

    def __init__(self, status: Literal["error", "skipped"], reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


def decode(data: bytes, options: ImageOptions) -> UInt8Array:
    """The pixels of `decode_image`, uint8 RGB."""
    return decode_image(data, options).pixels


def decode_image(data: bytes, options: ImageOptions) -> DecodedImage:
    """Decode an image and turn it upright by its EXIF orientation.

    Transparent pixels show `options.background_color`; what has more than 8 bits follows `options.range`.
    Neither Pillow's global limits nor the warning filters are touched, so threads may share the process.

    Raises:
        ImageProblem: for every kind of bad file, and for nothing else.
    """
    with _one_reason(options):
        data = _without_rest(data, options)
        file = TimedFile(data, options.max_seconds)
        decoded = _decode(file, data, options)
        file.check()
        return decoded


def _without_rest(data: bytes, options: ImageOptions) -> bytes:
    """The file without what its image does not need, at which decoders stumble."""
    if is_tiff(data):
        return single_image(data, options.frames)
    if data.startswith(_PLAIN):
        # Pillow takes each comment out of all that it has read: a time with the square of their number.
        return _COMMENT.sub(b"", data)
    return for_pixels(data) if data.startswith(SIGNATURE) else data


def values_in_own_process(data: bytes, options: ImageOptions) -> ValueRange | None:
    """`DecodedImage.values`, by the process that is killed when its time is up; no image kills this one.

    Raises:
        ImageProblem: as `decode_image`, or for an image that takes too much memory to be looked at.
    """
    with _one_reason(options):
        values: ValueRange | None = decoder.call(
            "values_alone", (data, options), options.max_seconds, min(options.max_pixels, _LOOKED_AT)
        )
        return values


def values_alone(data: bytes, options: ImageOptions) -> ValueRange | None:
    """`values_in_own_process`, in that process."""
    return decode_image(data, options).values


def decode_alone(data: bytes, options: ImageOptions) -> DecodedImage:
    """`decode_image` for the process that is killed when its time is up; everything happens in this one."""
    with _one_reason(options):
        if heif.is_heif(data):
            return _decode_heif(data, options)
        if is_tiff(data) and (tags := _banded(data, options)) is not None:
            return _decode_bands(data, options, tags)
        with _open(data) as image:
            return _pixels(image, data, options)


@contextmanager
def _one_reason(options: ImageOptions) -> Iterator[None]:
    try:
        yield
    except ImageProblem:
        raise
    except PixelProblem as problem:
        raise ImageProblem("error", str(problem)) from problem
    except TiffProblem as problem:
        raise ImageProblem(problem.status, problem.reason) from problem
    except (TookTooLongError, TimeoutError):
        raise ImageProblem("error", f"took longer than {options.max_seconds:g} s") from None
    except DecoderDiedError:
        raise ImageProblem("error", "cannot decode: the decoder crashed or ran out of memory") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(error, options) from error
    except Exception as error:
        # Damaged bytes raise anything in Pillow, AttributeError and AssertionError too.
        raise _undecodable(error) from error


def _decode(file: TimedFile, data: bytes, options: ImageOptions) -> DecodedImage:
    if is_tiff(data) and (tags := _banded(data, options)) is not None:
        width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
        _check_size(width, height, options)
        return _decode_elsewhere(data, options, width * height)
    if heif.is_heif(data):
        if not heif.can_read():
            raise ImageProblem("error", f"a HEIC image: {heif.EXTRA} reads it")
        return _decode_elsewhere(data, options, min(heif.most_pixels(data), options.max_pixels))
    with _open(data, file) as image:
        _check_header(image, file, data, options)
        if is_unstoppable(image, data):
            return _decode_elsewhere(data, options, image.width * image.height)
        return _pixels(image, data, options)


def _decode_elsewhere(data: bytes, options: ImageOptions, pixels: int) -> DecodedImage:
    return decoder.call("decode_alone", (data, options), options.max_seconds, pixels)


def _pixels(image: ImageFile.ImageFile, data: bytes, options: ImageOptions) -> DecodedImage:
    size = image.size
    reduced = _reduce(image, options.jpeg_size) if options.jpeg_size else 1
    keep_byte_order(image)
    wide = wide_values(image, data, lambda: _open(data, TimedFile(data, options.max_seconds)))
    image.load()
    if image.format == "PNG" and _ends_in_zeros(image):
        check_png(data, options.max_pixels)
    size = size if reduced > 1 else image.size
    # Read after load(), which turns a TIFF upright by itself and then drops its tag.
    orientation = _orientation(image)
    rgb, values = to_rgb(image, wide, options)
    pixels = _upright(rgb, orientation)
    width, height = size[::-1] if orientation in _SIDEWAYS else size
    return DecodedImage(pixels, height, width, reduced, values)


def _upright(rgb: Image.Image, orientation: int) -> UInt8Array:
    """The pixels of an RGB image, upright; some rows at a time, as Pillow copies all that it gives twice."""
    width, height = rgb.size
    pixels = np.empty((width, height, 3) if orientation in _SIDEWAYS else (height, width, 3), np.uint8)
    step = max(1, _AT_ONCE // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        part = rgb.crop((0, top, width, bottom))
        if orientation in _UPRIGHT:
            part = part.transpose(_UPRIGHT[orientation])
        there = slice(height - bottom, height - top) if orientation in _LAST_ROW_FIRST else slice(top, bottom)
        pixels[(slice(None), there) if orientation in _SIDEWAYS else there] = np.asarray(part)
    return pixels


def _ends_in_zeros(image: Image.Image) -> bool:
    """Whether one of the last two rows is 0, as Pillow leaves missing rows, of interlaced images too."""
    last = np.asarray(image.crop((0, max(0, image.height - 2), image.width, image.height)))
    return not last.reshape(len(last), -1).any(1).all()


def _open(data: bytes, file: TimedFile | None = None) -> ImageFile.ImageFile:
    """Open by content, like Image.open, but without its pixel limit, which holds for the whole process.

    Pillow has no public way to do that. `Image.OPEN`, which `Image.register_open` fills, is used only here.
    """
    if not data:
        raise ImageProblem("error", "not an image (empty file)")
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or accept is None or accept(data[:16]) is not True:
            continue
        try:
            return factory(io.BytesIO(data) if file is None else file, "")
        except _BROKEN_HEADER as error:
            raise _broken_header(name, data) from error
    kind = heif.unread_kind(data)
    raise ImageProblem("error", f"not an image that can be read ({kind})" if kind else "not an image")


def _broken_header(name: str, data: bytes) -> ImageProblem:
    # WebP's decoder takes only whole files, so a cut one fails here already; its size is in the RIFF header.
    if name == "WEBP" and len(data) < int.from_bytes(data[4:8], "little") + 8:
        return ImageProblem("error", "truncated")
    return ImageProblem("error", f"not an image (broken {name} header)")


def _banded(data: bytes, options: ImageOptions) -> dict[int, Any] | None:
    """Tags of a TIFF that Pillow does not open, or of which it drops bands that are asked for; else None."""
    tags = tiff_bands.header(data)
    try:
        with _open(data) as image:
            asked = max(options.bands or (0,))
            if tags is None or (asked <= len(image.getbands()) and not tiff_bands.is_separate(tags)):
                return None
    except ImageProblem:
        if tags is None:
            return None
    if find_spec("tifffile") is None:
        need = f"{tiff_bands.EXTRA} reads it, with image.bands=1,2,3"
        raise ImageProblem("error", f"a TIFF of {tiff_bands.describe(tags)}: {need}")
    return tags


def _decode_heif(data: bytes, options: ImageOptions) -> DecodedImage:
    file = TimedFile(data, options.max_seconds)
    try:
        image = heif.open_heif(file)
    except SyntaxError as error:
        raise _broken_header("HEIF", data) from error
    with image:
        _check_header(image, file, data, options)
        return _pixels(image, data, options)


def _decode_bands(data: bytes, options: ImageOptions, tags: dict[int, Any]) -> DecodedImage:
    width, height, n_bytes = tiff_bands.size_of(data)
    _check_size(width, height, options, n_bytes)
    geo = tiff_bands.is_geotiff(tags)
    rgb, values = bands_to_rgb(tiff_bands.read_bands(data), options, geo)
    return DecodedImage(np.array(rgb), height, width, 1, values)


def _check_header(image: ImageFile.ImageFile, file: TimedFile, data: bytes, options: ImageOptions) -> None:
    _check_size(*image.size, options)
    if image.format in {"JPEG", "MPO"} and jpeg_scans(data) > MAX_SCANS:
        raise ImageProblem("error", f"more than {MAX_SCANS} scans")
    # An MPO is a camera's JPEG with previews or a gain map behind the image.
    if options.frames == "skip" and image.format != "MPO" and getattr(image, "is_animated", False):
        raise ImageProblem("skipped", f"animated ({_count_frames(image, file)} frames)")


def _count_frames(image: ImageFile.ImageFile, file: TimedFile) -> str:
    """How many, or "many": some formats are read through to their end for it."""
    file.allow_reads(COUNT_READS)
    try:
        return str(getattr(image, "n_frames", 1))
    except TooManyReadsError:
        return "many"


def _check_size(width: int, height: int, options: ImageOptions, n_bytes: int = 0) -> None:
    if width * height > options.max_pixels:
        raise _too_large(width * height, options)
    if width * height * n_bytes > options.max_pixels * _USUAL_BYTES:
        size = f"{width * height / 1e6:g} MP of {n_bytes} bytes"
        raise ImageProblem("error", f"too large ({size}; image.max_pixels is for {_USUAL_BYTES} bytes each)")
    if max(width, height) > options.max_side:
        raise ImageProblem("error", f"too large ({width}x{height} px, max_side is {options.max_side})")
    if min(width, height) < options.min_size:
        raise ImageProblem("error", f"too small ({width}x{height} px, min_size is {options.min_size})")


def _reduce(image: ImageFile.ImageFile, keep: tuple[int, int]) -> int:
    """Let libjpeg reduce the image in its DCT; returns the factor that the sides are divided by."""
    if image.format not in {"JPEG", "MPO"}:
        return 1
    width, height = image.size
    share = max(keep[0] / max(width, height), keep[1] / min(width, height))
    image.draft(image.mode, (math.ceil(width * share), math.ceil(height * share)))
    return next(s for s in (1, 2, 4, 8) if -(-width // s) == image.width and -(-height // s) == image.height)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except TookTooLongError:
        raise
    except Exception:  # noqa: BLE001 (a broken EXIF block raises anything, and the pixels are still good)
        return 1


def _too_large(pixels: int, options: ImageOptions) -> ImageProblem:
    size, limit = pixels / 1e6, options.max_pixels / 1e6
    return ImageProblem("error", f"too large ({size:g} MP > limit {limit:g} MP)")


def _bomb(error: Exception, options: ImageOptions) -> ImageProblem:
    """Some plugins check Pillow's limit themselves (WebP, GIF, tiled TIFF); their text names the pixels."""
    pixels = int(next(iter(re.findall(r"\d+", str(error))), 0))
    if pixels > options.max_pixels:
        return _too_large(pixels, options)
    return ImageProblem("error", "too large (beyond Pillow's own limit)")


def _undecodable(error: Exception) -> ImageProblem:
    text = one_line(error)
    if isinstance(error, EOFError) or any(word in text.lower() for word in _CUT):
        return ImageProblem("error", "truncated")
    return ImageProblem("error", f"cannot decode: {text}")


def one_line(error: Exception) -> str:
    """What a decoder raised, printable and the same on every run: object addresses would differ."""
    text = "".join(character for character in str(error).partition("\n")[0] if character.isprintable())
    return re.sub(r"\s*<[^>]*>", "", text)[:120] or type(error).__name__
