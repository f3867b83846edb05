"""The images of a TIFF, told from its directories (IFDs): overviews, previews and masks are no frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

MAX_TAGS = 1_000
"""Tags of one directory; programs write 10 to 100."""
MAX_FRAMES = 1_000
_NEW_KIND, _OLD_KIND, _SUB_IFDS = 254, 255, 330
_REDUCED, _MASK = 1, 4
_OLD_REDUCED = 2
_SHORT = 3


class TiffProblem(ValueError):  # noqa: N818 (of the file, not of the program)
    """Why no single image can be taken from a TIFF, in one line.

    Args:
        status: "skipped" for a valid file of several images.
        reason: one line.
    """

    def __init__(self, status: Literal["error", "skipped"], reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Layout(NamedTuple):
    """Of the numbers in a file: their byte order, and what BigTIFF makes larger."""

    order: str
    first: int
    number: struct.Struct
    entry: struct.Struct
    offset: struct.Struct


class _Directory(NamedTuple):
    """One image: where its tags begin, where the place of the next one is written, and what it is."""

    start: int
    link: int
    full: bool
    has_more_inside: bool


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as TIFFs and BigTIFFs do."""
    return data[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def check_first(data: bytes) -> None:
    """Refuse more tags than an image can need, before anything reads them.

    Raises:
        TiffProblem: more than `MAX_TAGS` in the first directory.
    """
    next(_directories(data), None)


def full_images(data: bytes) -> int:
    """How many images there are in full size, up to `MAX_FRAMES` + 1; 1 if all are marked as reduced.

    Raises:
        TiffProblem: a directory of too many tags, or one beyond the end of the file.
    """
    count = 0
    for directory in _directories(data):
        count += directory.full
        if count > MAX_FRAMES:
            break
    return count or 1


def single_image(data: bytes, several: Literal["skip", "first"]) -> bytes:
    """The same file, in which readers find its first image of full size and no other.

    Nothing is sought behind that image where the first one is wanted.

    Args:
        data: a TIFF.
        several: what to do with a file of several images.

    Raises:
        TiffProblem: several images, too many tags, or previews alone.
    """
    found = next((d for d in _directories(data) if d.full), None)
    if found is None:
        found = next(_directories(data), None)
        if found is None:
            return data
        if found.has_more_inside:
            raise TiffProblem(
                "error", "its images are previews; the full one is in a SubIFD, which is not read"
            )
    if several == "skip" and (count := full_images(data)) > 1:
        raise TiffProblem("skipped", f"animated ({'many' if count > MAX_FRAMES else count} frames)")
    return _alone(data, found)


def _alone(data: bytes, directory: _Directory) -> bytes:
    layout = _layout(data)
    (first,) = layout.offset.unpack_from(data, layout.first)
    end = layout.offset.pack(0)
    if first == directory.start and data[directory.link : directory.link + len(end)] == end:
        return data
    changed = bytearray(data)
    layout.offset.pack_into(changed, layout.first, directory.start)
    changed[directory.link : directory.link + len(end)] = end
    return bytes(changed)


def _layout(data: bytes) -> _Layout:
    order = "<" if data[:1] == b"I" else ">"
    big = b"+" in data[2:4]
    return _Layout(
        order,
        8 if big else 4,
        struct.Struct(order + ("Q" if big else "H")),
        struct.Struct(order + ("HHQ8s" if big else "HHI4s")),
        struct.Struct(order + ("Q" if big else "I")),
    )


def _directories(data: bytes) -> Iterator[_Directory]:
    """All of them, as far as they can be read; a circle ends."""
    layout = _layout(data)
    start, seen = _number(layout.offset, data, layout.first), set[int]()
    while start and start not in seen:
        seen.add(start)
        count = _number(layout.number, data, start)
        if count is not None and count > MAX_TAGS:
            raise TiffProblem("error", f"a TIFF of {count} tags (allowed: {MAX_TAGS})")
        link = start + layout.number.size + layout.entry.size * (count or 0)
        following = None if count is None else _number(layout.offset, data, link)
        if following is None:
            if len(seen) == 1:
                return
            raise TiffProblem("error", "truncated")
        entries = layout.entry.iter_unpack(data[start + layout.number.size : link])
        yield _described(start, link, list(entries), layout.order)
        start = following


def _described(start: int, link: int, entries: list[tuple[int, int, int, bytes]], order: str) -> _Directory:
    values = {tag: _inline(kind, value, order) for tag, kind, _, value in reversed(entries)}
    new, old = values.get(_NEW_KIND), values.get(_OLD_KIND)
    full = old != _OLD_REDUCED if new is None else not new & (_REDUCED | _MASK)
    return _Directory(start, link, full, _SUB_IFDS in values)


def _inline(kind: int, value: bytes, order: str) -> int:
    size = 2 if kind == _SHORT else 4
    return int.from_bytes(value[:size], "little" if order == "<" else "big")


def _number(form: struct.Struct, data: bytes, offset: int) -> int | None:
    return int(form.unpack_from(data, offset)[0]) if 0 <= offset <= len(data) - form.size else None
