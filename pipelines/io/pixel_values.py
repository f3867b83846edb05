"""From the values of 16-bit and float images to 8 bits: one rule for grey and colour (`image.range`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Values = NDArray[Any]
Limits = tuple[float, float]
Alpha = Literal["auto", "blend", "ignore"]

RULES = ("auto", "full", "minmax", "percentile")
_LIMITS = re.compile(r"\s*([-+.\de]+)\s*,\s*([-+.\de]+)\s*", re.IGNORECASE)
PERCENTILES = (1.0, 99.0)
_AT_ONCE = 1 << 20
"""Values that are worked on at once."""
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


@dataclass(frozen=True)
class ValueRange:
    """The values of a decoded image that were made 8 bits.

    Attributes:
        kind: numpy's name of their type, such as `uint16`.
        low: the least.
        high: the greatest.
        black: what became 0, with all beyond it.
        white: what became 255, with all beyond it.
    """

    kind: str
    low: float
    high: float
    black: float
    white: float


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
) -> tuple[NDArray[np.uint8], ValueRange]:
    """The values as 0 to 255 by a rule, over all channels alike; values beyond the limits are cut off.

    auto: full for an image that uses more than a quarter of its full range, else percentile. full: 0 to
    65535, or 0 to 1 for floats. minmax: its least to its greatest value. percentile: its 1st to its 99th
    percentile. Works on some rows at a time: large images take little more memory than their values.

    Args:
        values: [H, W] or [H, W, C], integers or floats.
        rule: see `parse_range`.
        nodata: a value that means "nothing here"; it becomes 0, and so do values that are not finite.
        hidden: bool [H, W], pixels that do not count for the limits; None: no pixel.

    Returns:
        uint8, of the shape of the values, and what became black and white.

    Raises:
        PixelProblem: no value at all, or the rule does not fit the kind of values.
    """
    if hidden is not None and hidden.all():
        hidden = None
    missing = partial(_missing, values, nodata, hidden)
    known = _distribution(values, missing)
    low, high = _limits(known, parse_range(rule))
    pixels = np.empty(values.shape, np.uint8)
    for rows in row_slices(values):
        scaled = (np.where(missing(rows), low, values[rows]).astype(np.float64) - low) * (255 / (high - low))
        pixels[rows] = np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)
    return pixels, ValueRange(known.kind.name, known.low, known.high, low, high)


def row_slices(values: Values) -> Iterator[slice]:
    """Pieces of an array of some megabytes, one after the other."""
    step = max(1, _AT_ONCE // max(1, values[:1].size))
    return (slice(start, start + step) for start in range(0, len(values), step))


def _missing(
    values: Values, nodata: float | None, hidden: NDArray[np.bool_] | None, rows: slice
) -> NDArray[np.bool_]:
    part = values[rows]
    missing = ~np.isfinite(part) if part.dtype.kind == "f" else np.zeros(part.shape, bool)
    if nodata is not None:
        missing |= part == nodata
    if hidden is not None:
        missing |= hidden[rows].reshape(*hidden[rows].shape, *[1] * (values.ndim - 2))
    return missing


@dataclass(frozen=True)
class _Distribution:
    """How the values of an image are spread.

    Attributes:
        kind: of the values.
        low: the least.
        high: the greatest.
        percentiles: those of `PERCENTILES`, when they are asked for.
    """

    kind: np.dtype[Any]
    low: float
    high: float
    percentiles: Callable[[], Limits]


def _distribution(values: Values, missing: Callable[[slice], NDArray[np.bool_]]) -> _Distribution:
    if values.dtype in (np.uint8, np.uint16):
        return _counted(values, missing)
    parts = [values[rows][~missing(rows)] for rows in row_slices(values)]
    known = np.concatenate(parts) if parts else values.ravel()
    parts.clear()
    if not known.size:
        raise PixelProblem("no pixel has a value")
    ends = float(known.min()), float(known.max())
    return _Distribution(values.dtype, *ends, lambda: _pair(np.percentile(known, PERCENTILES)))


def _counted(values: Values, missing: Callable[[slice], NDArray[np.bool_]]) -> _Distribution:
    """By counts of each value: a copy of all values would take as much memory as the image."""
    counts = np.zeros(np.iinfo(values.dtype).max + 1, np.int64)
    for rows in row_slices(values):
        counts += np.bincount(values[rows][~missing(rows)], minlength=len(counts))
    there = np.flatnonzero(counts)
    if not there.size:
        raise PixelProblem("no pixel has a value")
    return _Distribution(values.dtype, float(there[0]), float(there[-1]), lambda: _percentiles(counts))


def _percentiles(counts: NDArray[np.int64]) -> Limits:
    """As numpy's, between the two values that a percentile lies between."""
    ends = np.cumsum(counts)
    places = (int(ends[-1]) - 1) * np.array(PERCENTILES) / 100
    below, above = (np.searchsorted(ends, place, "right") for place in (np.floor(places), np.ceil(places)))
    return _pair(below + (above - below) * (places - np.floor(places)))


def _pair(values: NDArray[Any]) -> Limits:
    low, high = map(float, values)
    return low, high


def _limits(known: _Distribution, rule: str | Limits) -> Limits:
    if not isinstance(rule, str):
        return rule
    full = _full(known.kind)
    low, high = known.low, known.high
    if rule == "auto":
        uses_all = full is not None and low >= full[0] and _USED * full[1] < high <= full[1]
        rule = "full" if uses_all or (low == high and full is not None) else "percentile"
    if rule == "full":
        if full is None or low < full[0] or high > full[1]:
            raise PixelProblem(f"values {low:g} to {high:g} have no full range; image.range=LO,HI sets one")
        return full
    if rule == "percentile":
        below, above = known.percentiles()
        low, high = (below, above) if below < above else (low, high)
    return (low, high) if low < high else (low, low + 1.0)


def _full(kind: np.dtype[Any]) -> Limits | None:
    """The full range of a kind of values; None where it has none that means anything."""
    if kind.kind == "f":
        return 0.0, 1.0
    return {"u1": (0.0, 255.0), "u2": (0.0, 65535.0)}.get(kind.str[1:])


def check_span(rgb: Image.Image, hint: str, *, values: Values | None, blank: bool) -> None:
    """Refuse an image that shows next to nothing.

    Args:
        rgb: the decoded image, in mode RGB.
        hint: the key that settles it.
        values: what it was made of, where these are not the 8-bit values themselves.
        blank: whether a single colour is fine, as in a plain 8-bit image.

    Raises:
        PixelProblem: its pixels span fewer than `MIN_SPAN` levels.
    """
    lows, highs = zip(*cast("tuple[tuple[int, int], ...]", rgb.getextrema()), strict=True)
    low, high = min(lows), max(highs)
    if high - low >= MIN_SPAN or (blank and low == high):
        return
    source = "" if values is None else f" (values {values.min():g} to {values.max():g})"
    raise PixelProblem(f"next to nothing to see: it decodes to {low} to {high} of 255{source}; {hint}")
