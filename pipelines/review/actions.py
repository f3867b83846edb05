"""What the page sends: corrections as JSON, checked whole before anything is stored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from segray.models.rle import checked_runs
from segray.pipelines.corrections import KINDS, Kind
from segray.pipelines.errors import UserError
from segray.pipelines.review.index import Index

MAX_ACTIONS = 2000
"""Corrections of one request."""
_FIELDS = {"image", "kind", "segments", "class", "mask", "target"}
_WITH_CLASS = {"name", "merge", "split", "paint"}
_WITH_SEGMENTS = {"name", "erase", "merge", "split"}
_KEY = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True)
class Wanted:
    """A correction that the page asks for.

    Attributes:
        image: its number in the index.
        kind: as of `Correction`, and so are the others.
        segments: segment_ids.
        class_name: of the label set; None: unknown.
        mask: run lengths over the image.
        target: a key.
    """

    image: int
    kind: Kind
    segments: tuple[int, ...] = ()
    class_name: str | None = None
    mask: bytes | None = None
    target: str | None = None


def parse_actions(document: object, index: Index, classes: Sequence[str]) -> list[Wanted]:
    """The corrections of a request.

    Raises:
        UserError: anything in them that does not fit the label set; says which one.
    """
    actions = document.get("corrections") if isinstance(document, dict) else None
    if not isinstance(actions, list) or not 1 <= len(actions) <= MAX_ACTIONS:
        raise UserError(f"corrections: not a list of 1 to {MAX_ACTIONS}")
    found = []
    for place, action in enumerate(actions):
        try:
            found.append(_parse(action, index, classes))
        except (ValueError, UserError) as problem:
            raise UserError(f"corrections[{place}]: {problem}") from None
    return found


def _parse(action: object, index: Index, classes: Sequence[str]) -> Wanted:
    if not isinstance(action, dict) or not action.keys() <= _FIELDS:
        raise ValueError(f"not a mapping with {', '.join(sorted(_FIELDS))}")
    image, kind = action.get("image"), action.get("kind")
    if type(image) is not int or not 0 <= image < len(index.images):
        raise ValueError(f"image: {str(image)[:20]} (allowed: 0 to {len(index.images) - 1})")
    if kind not in KINDS:
        raise ValueError(f"kind: {str(kind)[:20]!r} (allowed: {', '.join(KINDS)})")
    return Wanted(
        image,
        cast("Kind", kind),
        _segments(action, index, image) if kind in _WITH_SEGMENTS else (),
        _class(action, classes) if kind in _WITH_CLASS else None,
        _mask(action, index, image) if kind in ("split", "paint") else None,
        _target(action) if kind == "undo" else None,
    )


def _segments(action: Mapping[str, object], index: Index, image: int) -> tuple[int, ...]:
    numbers, known = action.get("segments"), set(index.segments.number[index.segments.of(image)].tolist())
    if not isinstance(numbers, list) or not numbers or not all(type(n) is int for n in numbers):
        raise ValueError("segments: not a list of segment_ids")
    if other := set(numbers) - known:
        raise ValueError(f"segments: {min(other)} is none of the image's {len(known)}")
    if action["kind"] == "split" and len(numbers) != 1:
        raise ValueError(f"segments: {len(numbers)} to split (allowed: 1)")
    return tuple(dict.fromkeys(numbers))


def _class(action: Mapping[str, object], classes: Sequence[str]) -> str | None:
    name = action.get("class")
    if name is None or (isinstance(name, str) and name in classes):
        return name
    raise ValueError(f"class: {str(name)[:40]!r} is none of the label set's")


def _mask(action: Mapping[str, object], index: Index, image: int) -> bytes:
    mask = action.get("mask")
    if not isinstance(mask, str) or not mask.isascii():
        raise ValueError("mask: not COCO's compressed run lengths")
    checked_runs(mask, int(index.images.height[image]), int(index.images.width[image]))
    return mask.encode()


def _target(action: Mapping[str, object]) -> str:
    target = action.get("target")
    if not isinstance(target, str) or not _KEY.fullmatch(target):
        raise ValueError("target: not the key of a correction")
    return target
