"""Find an image by a name that another program wrote."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property


def nfc(name: str) -> str:
    """A name with composed characters: macOS gives "u" and two dots where other systems give one letter."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


class Names:
    """Names, of which one is found as it is, or else by its composed form.

    Args:
        names: all of them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    @cached_property
    def _composed(self) -> dict[str, list[str]]:
        composed: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self._names):
            composed[nfc(name)].append(name)
        return composed

    @cached_property
    def _by_end(self) -> list[tuple[list[str], str]]:
        """By their parts, the last one first: those that share most parts with a path are beside it."""
        return sorted((_backwards(name), name) for name in self._names)

    def find(self, name: str) -> str | None:
        """The name as it is here; None if there is none, or if several have the same composed form."""
        if name in self._names:
            return name
        if name.isascii():
            return None
        same = self._composed.get(nfc(name), [])
        return same[0] if len(same) == 1 else None

    def find_path(self, path: str) -> str | None:
        """The name, or the only one with the path's last part; of several, the one that shares more parts."""
        found = self.find(path)
        if found is not None:
            return found
        parts = _backwards(path)
        place = bisect_left(self._by_end, (parts, ""))
        near = [(_shared(end, parts), name) for end, name in self._by_end[max(0, place - 2) : place + 2]]
        most = max((count for count, _ in near), default=0)
        same = [name for count, name in near if count == most]
        return same[0] if most and len(same) == 1 else None


def _backwards(name: str) -> list[str]:
    return nfc(name).split("/")[::-1]


def _shared(first: list[str], second: list[str]) -> int:
    """How many first parts are the same."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
