"""From the values of 16-bit and float images to 8 bits: one rule for grey and colour (`image.range`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
Limits = tuple[float, float]
Alpha = Literal["auto", "blend", "ignore"]

RULES = ("auto", "full", "minmax", "percentile")
_LIMITS = re.compile(r"\s*([-+.\de]+)\s*,\s*([-+.\de]+)\s*", re.IGNORECASE)
PERCENTILES = (1.0, 99.0)
_USED = 0.25
"""Share of the full range that `auto` takes for an image that uses all of it."""
MIN_SPAN = 8
"""Levels of 255 that an image must span, so that there is something to see."""


class PixelProblem(ValueError):  # noqa: N818 (of the image, not of the program)
    """Why the values of an image cannot become an RGB image, in one line."""


@dataclass(frozen=True)
class PixelRules:
    """How the values of an image become 8-bit RGB.

    Attributes:
        background_color: RGB colour behind transparent pixels.
        range: how values of more than 8 bits become 8, see `to_8_bits`.
        bands: numbers, from 1 on, of the bands for red, green and blue, or of one for grey; None: the file's.
        alpha: whether transparency is blended with the background or ignored; auto: blended, but for the
            fourth band of a TIFF that looks like data.
        check_span: whether an image that shows next to nothing is a problem.
    """

    background_color: tuple[int, int, int] = (255, 255, 255)
    range: str = "auto"
    bands: tuple[int, ...] | None = None
    alpha: Alpha = "auto"
    check_span: bool = True


def parse_range(text: str) -> str | Limits:
    """A rule of `RULES`, or limits `LO,HI`.

    Raises:
        ValueError: neither, or limits that do not rise.
    """
    if text in RULES:
        return text
    match = _LIMITS.fullmatch(text)
    try:
        low, high = (float(part) for part in match.groups()) if match else (0.0, 0.0)
    except ValueError:
        low, high = 0.0, 0.0
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"{text!r} is not a range (allowed: {', '.join(RULES)}, or two numbers LO,HI)")
    return low, high


def to_8_bits(
    values: Values, rule: str, nodata: float | None = None, hidden: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """The values as 0 to 255 by a rule, over all channels alike; values beyond the limits are cut off.

    auto: full for an image that uses more than a quarter of its full range, else percentile. full: 0 to
    65535, or 0 to 1 for floats. minmax: its least to its greatest value. percentile: its 1st to its 99th
    percentile.

    Args:
        values: [H, W] or [H, W, C], integers or floats.
        rule: see `parse_range`.
        nodata: a value that means "nothing here"; it becomes 0, and so do values that are not finite.
        hidden: bool [H, W], pixels that do not count for the limits; None: no pixel.

    Raises:
        PixelProblem: no value at all, or the rule does not fit the kind of values.
    """
    missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if nodata is not None:
        missing |= values == nodata
    if hidden is not None and not hidden.all():
        missing |= hidden.reshape(*hidden.shape, *[1] * (values.ndim - 2))
    known = values[~missing]
    if not known.size:
        raise PixelProblem("no pixel has a value")
    low, high = _limits(known, parse_range(rule))
    scaled = (np.where(missing, low, values).astype(np.float64) - low) * (255 / (high - low))
    return np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)


def _limits(known: Values, rule: str | Limits) -> Limits:
    if not isinstance(rule, str):
        return rule
    full = _full(known)
    low, high = float(known.min()), float(known.max())
    if rule == "auto":
        uses_all = full is not None and low >= full[0] and _USED * full[1] < high <= full[1]
        rule = "full" if uses_all or (low == high and full is not None) else "percentile"
    if rule == "full":
        if full is None or low < full[0] or high > full[1]:
            raise PixelProblem(f"values {low:g} to {high:g} have no full range; image.range=LO,HI sets one")
        return full
    if rule == "percentile":
        below, above = (float(p) for p in np.percentile(known, PERCENTILES))
        low, high = (below, above) if below < above else (low, high)
    return (low, high) if low < high else (low, low + 1.0)


def _full(known: Values) -> Limits | None:
    """The full range of the kind of values; None where it has none that means anything."""
    if known.dtype.kind == "f":
        return 0.0, 1.0
    return {"u1": (0.0, 255.0), "u2": (0.0, 65535.0)}.get(known.dtype.str[1:])


def check_span(pixels: NDArray[np.uint8], hint: str, *, values: Values | None, blank: bool) -> None:
    """Refuse an image that shows next to nothing.

    Args:
        pixels: the decoded image.
        hint: the key that settles it.
        values: what it was made of, where these are not the 8-bit values themselves.
        blank: whether a single colour is fine, as in a plain 8-bit image.

    Raises:
        PixelProblem: its pixels span fewer than `MIN_SPAN` levels.
    """
    low, high = int(pixels.min()), int(pixels.max())
    if high - low >= MIN_SPAN or (blank and low == high):
        return
    source = "" if values is None else f" (values {values.min():g} to {values.max():g})"
    raise PixelProblem(f"next to nothing to see: it decodes to {low} to {high} of 255{source}; {hint}")
