"""Changes that hypothesis makes to valid data: to values in a tree, and to bytes."""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

SECRET = "{SECRET}"
"""Replaced by the folder that no reader may open."""

NUMBERS: list[int | float] = [
    *(0, -1, 1, 2, 255, 256, 65_536, 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63), 2**63, 10**30, 10**400),
    *(0.5, -0.0, 1e9, -1e9, 1e308, math.inf, -math.inf, math.nan),
]
PATHS = [
    *("", ".", "..", "/", "../../x", "a/../../b", "/etc/passwd", "/proc/self/environ", "/dev/zero", "~/x"),
    *(f"{SECRET}/secret.png", f"file://{SECRET}/secret.png", f"local://{SECRET}/secret.json"),
    *(f"reference://x::file://{SECRET}/secret.json", f"zip://a::file://{SECRET}/secret.json"),
    *(f"simplecache::{SECRET}/a", "memory://x", "hf://a/b", "github://a:b@/c", "ftp://127.0.0.1/x"),
    *("http://127.0.0.1:9/x", "https://127.0.0.1:9/x", "ray://127.0.0.1:9", "gs://bucket/x"),
    *("s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http", "s3://KEY:SECRET@bucket/x"),
    *("hf-hub:a/b", "builtin:../../x", "auto", "a" * 300),
]
WORDS = [
    *("NaN", "1e999", "-1", "1" * 5000, "null", "{", "[" * 3000, "a" * 100_000, "é" * 200, "\ud800"),
    *("\0", "a\0b", "\x1b]0;title\x07", "\x1b[2J", "\r\n", "\u202e", "=1+1", "@SUM(1)", "--debug", "-rf"),
    *("<script>x</script>", "{{ 7*7 }}", "%s%n", "${HOME}", "$(id)", "; id"),
]


@dataclass(frozen=True)
class Built:
    """A value that is too large to be printed: nested lists, or zeros."""

    kind: str
    count: int

    def value(self) -> list[Any]:
        """The list itself."""
        if self.kind == "zeros":
            return [0] * self.count
        tree: list[Any] = []
        for _ in range(self.count):
            tree = [tree]
        return tree


OTHERS: list[Any] = [
    *(None, True, False, [], {}, [[]], [None], {"": None}),
    *(Built("nested", 50), Built("nested", 3000), Built("zeros", 20_000)),
]

hostile = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(PATHS),
    st.sampled_from(WORDS),
    st.sampled_from(OTHERS),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)


@dataclass(frozen=True)
class Edit:
    """A change at one place of a tree of dictionaries and lists.

    Attributes:
        place: which of the values, in the order of a walk; counted modulo their number.
        action: "replace", "delete", "twice" (a list's item) or "rename" (a dictionary's key).
        value: for "replace" and "rename".
    """

    place: int
    action: str
    value: Any = None


edits = st.lists(
    st.builds(
        Edit, st.integers(0, 500), st.sampled_from(["replace"] * 5 + ["delete", "twice", "rename"]), hostile
    ),
    min_size=1,
    max_size=3,
)


def edited(tree: Any, changes: Sequence[Edit]) -> Any:
    """A copy of the tree with the changes made one after another."""
    tree = copy.deepcopy(tree)
    for change in changes:
        places = list(_places(tree))
        if places:
            _apply(*places[change.place % len(places)], change)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value, depth first."""
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
        # A large list of numbers is one place among others, not all of them.
        for key in keys if len(keys) < 200 else keys[:5]:
            yield node, key
            stack.append(node[key])


def _apply(node: Any, key: Any, change: Edit) -> None:
    # A list that two examples share would hold what the first one put into it.
    value = change.value.value() if isinstance(change.value, Built) else copy.deepcopy(change.value)
    if change.action == "delete":
        del node[key]
    elif change.action == "twice" and isinstance(node, list):
        node.insert(key, node[key])
    elif change.action == "rename" and isinstance(node, dict):
        node[str(change.value)] = node.pop(key)
    else:
        node[key] = value


@dataclass(frozen=True)
class Cut:
    """A change of bytes.

    Attributes:
        where: position, as a share of the length in thousandths.
        action: "flip" a bit, "cut" the rest off, "drop", "repeat", "zero" or "fill" 64 bytes, or "number".
        value: which bit, or which number.
    """

    where: int
    action: str
    value: int = 0


cuts = st.lists(
    st.builds(
        Cut,
        st.integers(0, 1000),
        st.sampled_from(
            ["flip", "flip", "flip", "cut", "drop", "repeat", "zero", "fill", "number", "number"]
        ),
        st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1]),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, changes: Sequence[Cut]) -> bytes:
    """The bytes with the changes made one after another."""
    for change in changes:
        data = _damaged(data, change)
    return data


def _damaged(data: bytes, change: Cut) -> bytes:
    at = min(len(data) - 1, len(data) * change.where // 1000)
    if at < 0:
        return data
    head, rest = data[:at], data[at:]
    number = struct.pack("<I", change.value)
    return {
        "flip": head + bytes([rest[0] ^ 1 << change.value % 8]) + rest[1:],
        "cut": head,
        "drop": head + rest[64:],
        "repeat": head + rest[:64] + rest,
        "zero": head + bytes(len(rest[:64])) + rest[64:],
        "fill": head + b"\xff" * len(rest[:64]) + rest[64:],
        "number": head + number + rest[4:],
    }[change.action]


def with_secret(changes: Sequence[Edit], folder: str) -> list[Edit]:
    """The changes with the path of the secret folder for its placeholder."""
    values = [change.value for change in changes]
    shown = [value.replace(SECRET, folder) if isinstance(value, str) else value for value in values]
    return [replace(change, value=value) for change, value in zip(changes, shown, strict=True)]
