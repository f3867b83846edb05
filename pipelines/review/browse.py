"""Choose and order images: the filters and sort keys of the grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.errors import UserError
from segray.pipelines.review.index import Images
from segray.pipelines.review.marks import Marks

SORTS = ("id", "confidence", "margin", "segments", "errors", "disagreement", "next", "corrected")
"""What the grid can be sorted by; a minus in front reverses it."""
STATES = ("any", "open", "corrected", "good", "no label")
RANGES = ("confidence", "margin", "errors", "disagreement")
MAX_PAGE = 500
_MAX_TEXT = 200


@dataclass(frozen=True)
class Query:
    """Which images, in which order.

    Attributes:
        text: words that must all be in the id.
        classes: ids; an image has all of them.
        state: one of `STATES`.
        ranges: lowest and highest value of each of `RANGES`; images without a value are left out.
        sort: one of `SORTS`, with a minus to reverse it.
    """

    text: str = ""
    classes: tuple[int, ...] = ()
    state: str = "any"
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sort: str = "id"


def parse_query(values: Mapping[str, str], n_classes: int) -> Query:
    """The query of a request.

    Raises:
        UserError: a value that is not allowed.
    """
    text = values.get("text", "")
    if len(text) > _MAX_TEXT:
        raise UserError(f"text: {len(text)} characters (allowed: at most {_MAX_TEXT})")
    sort, state = values.get("sort", "id"), values.get("state", "any")
    if sort.removeprefix("-") not in SORTS:
        raise UserError(
            f"sort: {sort[:40]!r} (allowed: {', '.join(SORTS)}, with a minus in front to reverse)"
        )
    if state not in STATES:
        raise UserError(f"state: {state[:40]!r} (allowed: {', '.join(STATES)})")
    classes = tuple(_class_id(text, n_classes) for text in values.get("classes", "").split(",") if text)
    ranges = {name: _range(name, values[name]) for name in RANGES if values.get(name)}
    return Query(text, classes, state, ranges, sort)


def whole_number(name: str, text: str, most: int, least: int = 0) -> int:
    """A number of a request.

    Raises:
        UserError: not a whole number between `least` and `most`.
    """
    if text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most:
        return int(text)
    raise UserError(f"{name}: {text[:40]!r} (allowed: {least} to {most})")


def _class_id(text: str, n_classes: int) -> int:
    return whole_number("classes", text, n_classes - 1)


def _range(name: str, text: str) -> tuple[float, float]:
    low, _, high = text.partition(",")
    try:
        values = float(low or "-inf"), float(high or "inf")
    except ValueError:
        values = math.nan, math.nan
    if math.isnan(values[0]) or math.isnan(values[1]):
        raise UserError(f"{name}: {text[:40]!r} (allowed: LOW,HIGH)")
    return values


def select(images: Images, marks: Marks, query: Query) -> NDArray[np.int64]:
    """The numbers of the images that a query asks for, in its order."""
    kept = _state(images, marks, query.state)
    for word in query.text.casefold().split():
        kept &= np.fromiter((word in name.casefold() for name in images.ids), np.bool_, len(images))
    for class_id in query.classes:
        kept &= share_of(images, marks, class_id) > 0
    for name, (low, high) in query.ranges.items():
        values = _values(images, marks, name)
        kept &= (values >= low) & (values <= high)
    numbers = np.flatnonzero(kept)
    return numbers[_order(images, marks, query.sort, numbers)]


def share_of(images: Images, marks: Marks, class_id: int) -> NDArray[np.float32]:
    """float32 [N], the share of each image's pixels that a class has, after corrections."""
    shares = images.share_of(class_id)
    for image, corrected in list(marks.shares.items()):
        shares[image] = corrected.get(class_id, 0.0)
    return shares


def _state(images: Images, marks: Marks, state: str) -> NDArray[np.bool_]:
    if state == "corrected":
        return marks.corrected.copy()
    if state == "good":
        return marks.good.copy()
    if state == "no label":
        return ~images.labelled
    return (
        images.labelled & ~marks.corrected & ~marks.good
        if state == "open"
        else np.ones(len(images), np.bool_)
    )


def _values(images: Images, marks: Marks, name: str) -> NDArray[np.float32]:
    """float32 [N], what images are sorted by; nan without a value."""
    values = {
        "confidence": images.confidence,
        "margin": images.margin,
        "segments": images.count.astype(np.float32),
        "errors": marks.errors,
        "disagreement": marks.disagreement,
        "next": marks.rank,
        "corrected": marks.when,
    }
    return values[name]


def _order(images: Images, marks: Marks, sort: str, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Images without a value come last, and equal ones in the order of their ids."""
    name, down = sort.removeprefix("-"), sort.startswith("-")
    if name == "id":
        return np.arange(len(numbers))[:: -1 if down else 1]
    values = _values(images, marks, name)[numbers]
    return np.argsort(-values if down else values, kind="stable")
