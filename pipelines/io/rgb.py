"""An opened image of any mode to 8-bit RGB, by `PixelRules`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from segray.pipelines.io.pixel_values import (
    PixelProblem,
    PixelRules,
    ValueRange,
    Values,
    check_span,
    row_slices,
    to_8_bits,
)
from segray.pipelines.io.tiff_bands import Bands, is_geotiff

_MODES = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LA", "La", "PA", "RGBA", "RGBa"})
_BANDS_OF = frozenset({"L", "LA", "RGB", "RGBX", "RGBA", "CMYK"})
_PHOTOMETRIC, _NODATA = 262, 42113
_MOSTLY = 0.5
"""Share of half-transparent pixels above which a TIFF's fourth band looks like data."""
_RANGE_HINT = "image.range=minmax or LO,HI stretches the values"


Rgb = tuple[Image.Image, ValueRange | None]
"""An image in mode RGB, and what values it had; None for 8 bits that stayed as they are."""


@dataclass(frozen=True)
class _Source:
    """Values of an image before they become 8 bits: [H, W, C], and what the file says of them.

    Attributes:
        nodata: the value that means "nothing here".
        inverted: whether 0 is white.
        opacity: [H, W], up to the greatest of its type; None where all is opaque.
    """

    values: Values
    nodata: float | None = None
    inverted: bool = False
    opacity: Values | None = None


def to_rgb(image: ImageFile.ImageFile, wide: Values | None, rules: PixelRules) -> Rgb:
    """The image in mode RGB.

    Args:
        image: loaded.
        wide: its values in full depth, see `wide_values`; None where Pillow has them all.
        rules: how values become 8 bits.

    Raises:
        PixelProblem: a mode without a meaning as colours, bands that it does not have, or nothing to see.
    """
    source = _source(image, wide, rules)
    if source is not None:
        return _scaled(source, rules)
    rgb = _blended(image, rules)
    if rules.check_span:
        clear = _is_transparent(image)
        hint = "image.alpha=ignore shows what is transparent" if clear else _RANGE_HINT
        check_span(rgb, hint, values=None, blank=not clear)
    return rgb, None


def _is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255


def bands_to_rgb(bands: Bands, rules: PixelRules, geo: bool) -> Rgb:
    """The image in mode RGB, from the bands of a TIFF.

    Raises:
        PixelProblem: nothing says which bands are colours, or there is nothing to see.
    """
    values, count = bands.values, bands.values.shape[2]
    if rules.bands is None and not (bands.rgb or count == 1):
        raise PixelProblem(
            f"{count} bands of {values.dtype}, and nothing says which are red, green and blue; "
            "image.bands=1,2,3 says so"
        )
    chosen = rules.bands or (tuple(range(1, min(3, count) + 1)))
    if rules.bands is None and bands.alpha and rules.alpha == "auto" and not geo:
        raise PixelProblem(_looks_like_data(values[..., 3]))
    return _scaled(_Source(_chosen(values, chosen), bands.nodata), rules)


def _source(image: ImageFile.ImageFile, wide: Values | None, rules: PixelRules) -> _Source | None:
    """The values to scale; None where 8 bits are taken as they are."""
    tags = getattr(image, "tag_v2", {})
    nodata = _number(tags.get(_NODATA))
    # Pillow inverts 8-bit "white is zero", and nothing deeper.
    inverted = tags.get(_PHOTOMETRIC) == 0 and image.mode not in {"1", "L"}
    values = wide
    if values is None and (image.mode.startswith("I;16") or image.mode in {"I", "F"}):
        array = np.asarray(image)
        # Pillow opens 16-bit PGM as "I"; elsewhere "I" means 32 or signed bits.
        values = array.astype(np.uint16) if image.mode == "I" and image.format == "PPM" else array
    if rules.bands is not None:
        values = _all_bands(image) if values is None else values
        return _Source(_chosen(_three_axes(values), rules.bands), nodata, inverted)
    if values is not None:
        values = _three_axes(values)
        return _Source(values[..., :3], nodata, inverted, _opacity(image, values, rules))
    if image.mode not in _MODES:
        raise PixelProblem(f"unsupported mode {image.mode}")
    if rules.range in {"auto", "full"}:
        return None
    return _stretched(image, nodata, rules)


def _stretched(image: ImageFile.ImageFile, nodata: float | None, rules: PixelRules) -> _Source:
    """The values of an 8-bit image; what shines through it does not count for the range."""
    if not image.has_transparency_data:
        return _Source(np.asarray(_blended(image, rules)), nodata)
    rgba = np.asarray(image.convert("RGBA"))
    blends = _blends(image, rgba[..., 3], rules)
    return _Source(rgba[..., :3], nodata, opacity=rgba[..., 3] if blends else None)


def _three_axes(values: Values) -> Values:
    return values[..., None] if values.ndim == 2 else values


def _all_bands(image: Image.Image) -> Values:
    if image.mode not in _BANDS_OF:
        raise PixelProblem(f"image.bands: an image of mode {image.mode} has no bands to choose from")
    return np.asarray(image)


def _chosen(values: Values, numbers: Sequence[int]) -> Values:
    over = max(numbers)
    if over > values.shape[2]:
        raise PixelProblem(
            f"image.bands={','.join(map(str, numbers))}: the image has {values.shape[2]} bands"
        )
    return values[..., [number - 1 for number in numbers]]


def _opacity(image: ImageFile.ImageFile, values: Values, rules: PixelRules) -> Values | None:
    """Of 16-bit RGB with transparency."""
    if values.shape[2] != 4 or image.mode != "RGBA" or not _blends(image, values[..., 3], rules):
        return None
    return values[..., 3]


def _blended(image: ImageFile.ImageFile, rules: PixelRules) -> Image.Image:
    """An 8-bit image in mode RGB."""
    if not image.has_transparency_data:
        # convert() would copy it.
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    if not _blends(image, np.asarray(rgba.getchannel("A")), rules):
        return rgba.convert("RGB")
    background = Image.new("RGBA", image.size, (*rules.background_color, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")


def _blends(image: ImageFile.ImageFile, alpha: Values, rules: PixelRules) -> bool:
    """Whether transparency is transparency.

    Raises:
        PixelProblem: it looks like data, and nothing tells.
    """
    if rules.alpha != "auto" or image.format != "TIFF":
        return rules.alpha != "ignore"
    highest = np.iinfo(alpha.dtype).max
    if float(np.mean((alpha > 0) & (alpha < highest))) <= _MOSTLY:
        return True
    if not is_geotiff(dict(getattr(image, "tag_v2", {}))):
        raise PixelProblem(_looks_like_data(alpha))
    return False


def _looks_like_data(alpha: Values) -> str:
    return (
        "the fourth band is marked as transparency, but looks like data "
        f"({alpha.min():g} to {alpha.max():g}); "
        "image.alpha=ignore leaves it out, image.alpha=blend takes it as transparency"
    )


def _scaled(source: _Source, rules: PixelRules) -> Rgb:
    values, known = source.values, None
    if values.shape[2] not in {1, 3}:
        raise PixelProblem(f"{values.shape[2]} bands are neither grey nor RGB; image.bands=1,2,3 chooses")
    hidden = None if source.opacity is None else source.opacity == 0
    pixels: NDArray[np.uint8] = values
    if values.dtype != np.uint8 or rules.range not in {"auto", "full"}:
        pixels, known = to_8_bits(values, rules.range, source.nodata, hidden)
    if source.inverted:
        pixels = 255 - pixels
        known = known and replace(known, black=known.white, white=known.black)
    if source.opacity is not None:
        pixels = _over(rules.background_color, pixels, source.opacity)
    rgb = Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))
    if rules.check_span:
        check_span(rgb, _RANGE_HINT, values=values, blank=values.dtype == np.uint8)
    return rgb, known


def _over(background: Sequence[int], pixels: NDArray[np.uint8], opacity: Values) -> NDArray[np.uint8]:
    """The pixels blended with a colour behind them, some rows at a time."""
    blended = np.empty((*pixels.shape[:2], 3), np.uint8)
    for rows in row_slices(pixels):
        share = (opacity[rows] / np.iinfo(opacity.dtype).max)[..., None]
        mixed = pixels[rows] * share + np.array(background) * (1 - share)
        blended[rows] = np.rint(mixed).astype(np.uint8)
    return blended


def _number(text: object) -> float | None:
    try:
        return float(str(text).strip("\x00 ")) if text is not None else None
    except ValueError:
        return None
