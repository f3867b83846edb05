"""A class-balanced draw of a few images: the same for the same seed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.errors import UserError

_AMOUNT = re.compile(r"all|[0-9]+|[0-9]+/[0-9]+")
_LOOKED_AT = 64
"""Random images that compete for one place: enough for balance, and few among a hundred thousand."""


def is_amount(text: str) -> bool:
    """Whether a split is given as "all", a count or a share such as 1/16, and not as a file."""
    return _AMOUNT.fullmatch(text) is not None


def amount(text: str, count: int, key: str) -> int:
    """How many of `count` images "all", a count or a share asks for.

    A share is rounded up, as in the published splits: 1/16 of 1464 images are 92, 1/512 of 118287 are 232.

    Args:
        text: for which `is_amount` holds.
        count: of the images with masks.
        key: the configuration key that has the text.

    Raises:
        UserError: none, or more than there are.
    """
    if text == "all":
        return count
    over, _, under = text.partition("/")
    if under and not 0 < int(over) <= int(under):
        raise UserError(f"{key}: {text} is no share (allowed: above 0 and at most 1/1)")
    wanted = -(-count * int(over) // int(under)) if under else int(over)
    if not 1 <= wanted <= count:
        raise UserError(f"{key}={text}: {count} training images have masks (allowed: 1 to {count})")
    return wanted


def balanced_sample(contents: Sequence[frozenset[int]], wanted: int, seed: Sequence[int]) -> list[int]:
    """Positions of `wanted` images, ascending, in which each class has about its share, at least one image.

    Greedy: class by class, the rarest first, images with the class are drawn until it has its share; of some
    at random the one with the most classes still short of theirs. What is left is filled at random.

    Args:
        contents: the class ids in each image.
        wanted: how many, at most all.
        seed: the same one gives the same draw.
    """
    rng = np.random.default_rng(list(seed))
    order = rng.permutation(len(contents))
    has = _presence([contents[i] for i in order])
    frequency = has.sum(0)
    quota = np.maximum(np.rint(frequency * wanted / max(len(contents), 1)), 1).astype(int)
    taken = np.zeros(len(order), bool)
    for column in np.argsort(frequency, kind="stable"):
        _take(has, taken, quota, int(column), wanted)
    rest = np.flatnonzero(~taken)[: wanted - int(taken.sum())]
    taken[rest] = True
    return sorted(int(i) for i in order[taken])


def _presence(contents: Sequence[frozenset[int]]) -> NDArray[np.bool_]:
    """bool [images, classes that occur]."""
    ids = sorted(frozenset().union(*contents))
    column = {class_id: i for i, class_id in enumerate(ids)}
    has = np.zeros((len(contents), len(ids)), bool)
    for row, found in enumerate(contents):
        has[row, [column[class_id] for class_id in found]] = True
    return has


def _take(
    has: NDArray[np.bool_], taken: NDArray[np.bool_], quota: NDArray[np.int_], column: int, wanted: int
) -> None:
    """Draw images with a class into `taken` until it has its quota."""
    free = list(np.flatnonzero(has[:, column] & ~taken))
    counts = has[taken].sum(0)
    while free and counts[column] < quota[column] and taken.sum() < wanted:
        seen = free[:_LOOKED_AT]
        short = counts < quota
        # A class that has its share already is no gain but a loss of balance.
        gain = has[seen][:, short].sum(1) - has[seen][:, ~short].sum(1)
        best = int(np.argmax(gain))
        taken[free[best]] = True
        counts += has[free.pop(best)]
