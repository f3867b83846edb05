"""The values that images of a run have, and what `image.range` makes of them, in a line before it works."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import NamedTuple, TypeVar

from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.io.images import ImageOptions, ImageProblem, values_in_own_process
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.pixel_values import ValueRange, parse_range
from segray.pipelines.io.png_chunks import SIGNATURE
from segray.pipelines.io.sources import read_allowed
from segray.pipelines.understood import line

T = TypeVar("T")

IMAGES = 5
"""Images that are looked at, at most."""
_AMONG = 100_000
"""Images of a list among which these are: a long list is not read to its end for this."""
_SECONDS = 5.0
"""After these no further image is looked at."""
_MOST_SECONDS = 10.0
"""For one image."""
_JPEG = b"\xff\xd8\xff"
_DEPTH = 24
"""Place of the bits of a channel in a PNG, in the chunk that its standard puts first."""


class Looked(NamedTuple):
    """An image to look at.

    Attributes:
        name: for the line.
        uri: of the file.
        options: how it is decoded, and where it may be.
    """

    name: str
    uri: str
    options: ImageOptions


def spread(items: Iterable[T], total: int) -> Iterator[T]:
    """At most `IMAGES` of the items, of which there are `total`: the first, the last, and some between."""
    last = max(1, min(total, IMAGES) - 1)
    places = {number * (total - 1) // last for number in range(min(total, IMAGES))}
    return (item for place, item in enumerate(islice(items, total)) if place in places)


def pending_lines(refs: Iterable[ImageRef], total: int, options: ImageOptions) -> list[str]:
    """`value_lines` of the images that a run has still to do, of which there are `total`."""
    some = spread(refs, min(total, _AMONG))
    return value_lines([Looked(ref.image_id, ref.uri, options) for ref in some if ref.problem is None])


def value_lines(images: Sequence[Looked], key: str = "image.range") -> list[str]:
    """What values the images have, one line per kind.

    Images that cannot be decoded are passed over: they get a line or a row of their own where they are used.
    JPEGs and PNGs of 8 bits are known by their first bytes alone.

    Args:
        images: some of the run, see `spread`.
        key: that says how values of more than 8 bits become 8.
    """
    began, seen = time.monotonic(), list[tuple[str, ValueRange | None]]()
    with Waiting("some of the images, for the values that they have"):
        for image in images:
            if time.monotonic() - began > _SECONDS:
                break
            with suppress(ImageProblem, MemoryError):
                seen.append((image.name, _values(image)))
    rule = images[0].options.range if images else ""
    return [line("values", text) for text in _texts(seen, key, rule)]


def _values(image: Looked) -> ValueRange | None:
    options = image.options
    data = read_allowed(image.uri, options.roots, follow=options.follow_links)
    if options.range in {"auto", "full"} and _has_8_bits(data):
        return None
    return values_in_own_process(data, replace(options, max_seconds=min(options.max_seconds, _MOST_SECONDS)))


def _has_8_bits(data: bytes) -> bool:
    """Whether the first bytes say so: a large photograph need not be decoded twice for this."""
    return data.startswith(_JPEG) or (
        data.startswith(SIGNATURE) and b"" < data[_DEPTH : _DEPTH + 1] <= b"\x08"
    )


def _texts(seen: Sequence[tuple[str, ValueRange | None]], key: str, rule: str) -> Iterator[str]:
    plain = sum(values is None for _, values in seen)
    if plain:
        yield f"decode to 8 bits, taken as they are, in {_of(plain, len(seen))}"
    wide = [(name, values) for name, values in seen if values is not None]
    for kind in dict.fromkeys(values.kind for _, values in wide):
        some = [(name, values) for name, values in wide if values.kind == kind]
        low, high = min(values.low for _, values in some), max(values.high for _, values in some)
        found = f"{kind}, {_number(low)} to {_number(high)}, in {_of(len(some), len(seen))}"
        yield f"{found}; {_stretch(some, key, rule)}"


def _stretch(some: Sequence[tuple[str, ValueRange]], key: str, rule: str) -> str:
    name, first = some[0]
    text = f"{key}={rule} makes {_number(first.black)} black and {_number(first.white)} white"
    if isinstance(parse_range(rule), tuple) or rule == "full":
        return text
    return f"{text} in {name}, each image by itself; {key}=LO,HI sets one range for all"


def _number(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:g}"


def _of(count: int, seen: int) -> str:
    return f"{count} of {seen} images looked at"
