"""Many small parts of a log become one, so that a label set stays quick to open after thousands of clicks.

A pack is a part like others, with the rows of those it replaces; readers count a correction once, in however
many parts it is. So a process that is killed anywhere loses nothing. Of two parts with the same rows the one
that comes first in one order of all parts stays, so that two processes at once never delete both.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from segray.pipelines.corrections.correction import Correction, key_time, new_key, now
from segray.pipelines.corrections.log import CORRECTIONS, CorrectionLog
from segray.pipelines.io import storage

MANY = 256
"""Small parts that become one; a part with as many rows is not small."""
_GRACE = timedelta(minutes=10)
"""How old a pack is before what it replaces is deleted: a listing that began before the pack was there may
lack it, and must still find the others."""
_MAX_MASKS = 1 << 28
"""Bytes of the masks of a pack."""

Parts = dict[str, tuple[Correction, ...]]


def compact(log: CorrectionLog) -> None:
    """Delete the parts that are in older packs, and pack small ones where there are many.

    Raises:
        UserError: the log cannot be read or written; nothing is lost.
    """
    parts = log.parts()
    for name in _covered(parts, before=now() - _GRACE):
        storage.delete(storage.join(log.root, CORRECTIONS, name))
    small = {name: part for name, part in parts.items() if len(part) < MANY}
    for name in _covered(parts, before=None):
        small.pop(name, None)
    if len(small) >= MANY:
        rows = {one.key: one for name in sorted(small) for one in small[name]}
        log.write_part(new_key(max(rows)), _fitting([rows[key] for key in sorted(rows)]))


def _covered(parts: Parts, before: datetime | None) -> list[str]:
    """The parts all of whose rows are in others that come first.

    Args:
        parts: the corrections of each.
        before: only parts of earlier times cover others; None: all.
    """
    seen: dict[str, Correction] = {}
    covered = []
    for name in sorted(parts, key=lambda name: (-len(parts[name]), name)):
        if all(seen.get(one.key) == one for one in parts[name]):
            covered.append(name)
        elif before is None or key_time(name.removeprefix("part-")) < before:
            seen |= {one.key: one for one in parts[name]}
    return covered


def _fitting(corrections: list[Correction]) -> list[Correction]:
    size, fitting = 0, []
    for one in corrections:
        size += len(one.mask or b"")
        if size > _MAX_MASKS:
            break
        fitting.append(one)
    return fitting
