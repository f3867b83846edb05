"""Class-balanced sampling of a few images: the same for the same seed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.errors import UserError

_AMOUNT = re.compile(r"all|[0-9]+|[0-9]+/[0-9]+")
_COMPARED = 64
"""Random images of which the best is taken: enough for balance, even among a hundred thousand images."""


def is_amount(text: str) -> bool:
    """Whether a split is "all", a count or a share such as 1/16, and not a file."""
    return _AMOUNT.fullmatch(text) is not None


def amount(text: str, count: int, key: str) -> int:
    """How many of `count` images "all", a count or a share is.

    A share is rounded up, as in the published splits: 1/16 of 1464 images are 92, 1/512 of 118287 are 232.

    Args:
        text: for which `is_amount` holds.
        count: of the images with masks.
        key: the configuration key that has the text.

    Raises:
        UserError: less than one, or more than there are.
    """
    if text == "all":
        return count
    over, _, under = text.partition("/")
    if under and not 0 < int(over) <= int(under):
        raise UserError(f"{key}: {text} is not a valid share (allowed: above 0 and at most 1/1)")
    number = -(-count * int(over) // int(under)) if under else int(over)
    if not 1 <= number <= count:
        raise UserError(f"{key}={text}: {count} training images have masks (allowed: 1 to {count})")
    return number


def balanced_sample(contents: Sequence[frozenset[int]], count: int, seed: Sequence[int]) -> list[int]:
    """Indices of `count` images, ascending, in which each class has about its share, and at least one image.

    Greedy: class by class, the rarest first, images with the class are taken until it has its share; each
    time, of a few random ones, the image with the most classes that still lack theirs. Random images fill up.

    Args:
        contents: the class ids in each image.
        count: at most all.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(list(seed))
    order = rng.permutation(len(contents))
    has = _presence([contents[i] for i in order])
    frequency = has.sum(0)
    quota = np.maximum(np.rint(frequency * count / max(len(contents), 1)), 1).astype(int)
    taken = np.zeros(len(order), bool)
    for column in np.argsort(frequency, kind="stable"):
        _take(has, taken, quota, int(column), count)
    rest = np.flatnonzero(~taken)[: count - int(taken.sum())]
    taken[rest] = True
    return sorted(int(i) for i in order[taken])


def _presence(contents: Sequence[frozenset[int]]) -> NDArray[np.bool_]:
    """Which image has which class: bool [images, classes that occur]."""
    ids = sorted(frozenset().union(*contents))
    column = {class_id: i for i, class_id in enumerate(ids)}
    has = np.zeros((len(contents), len(ids)), bool)
    for row, class_ids in enumerate(contents):
        has[row, [column[class_id] for class_id in class_ids]] = True
    return has


def _take(
    has: NDArray[np.bool_], taken: NDArray[np.bool_], quota: NDArray[np.int_], column: int, count: int
) -> None:
    """Mark images with a class as taken until the class has its quota."""
    free = list(np.flatnonzero(has[:, column] & ~taken))
    counts = has[taken].sum(0)
    while free and counts[column] < quota[column] and taken.sum() < count:
        compared = free[:_COMPARED]
        short = counts < quota
        # A class that already has its share upsets the balance.
        gain = has[compared][:, short].sum(1) - has[compared][:, ~short].sum(1)
        best = int(np.argmax(gain))
        taken[free[best]] = True
        counts += has[free.pop(best)]
