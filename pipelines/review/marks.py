"""What changes while the page is open: corrections, errors against masks, disagreement, what is next."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Marks:
    """Of N images.

    Attributes:
        corrected: bool [N], has corrections that count.
        good: bool [N], somebody marked it as good.
        when: float32 [N], how late its last correction was, as a rank; nan without one.
        errors: float32 [N], share of the pixels that are wrong against the masks; nan: not known.
        disagreement: float32 [N], share of the pixels that differ from the other labels; nan: not known.
        rank: float32 [N], place in the order of what to correct next; nan: not in it.
        shares: share of the pixels of each class, of corrected images.
    """

    corrected: NDArray[np.bool_]
    good: NDArray[np.bool_]
    when: Floats
    errors: Floats
    disagreement: Floats
    rank: Floats
    shares: dict[int, dict[int, float]] = field(default_factory=dict)

    @classmethod
    def none(cls, count: int) -> Marks:
        """Of images about which nothing is known."""
        empty = np.zeros(count, np.bool_)
        unknown = np.full(count, np.nan, np.float32)
        return cls(empty, empty.copy(), unknown, unknown.copy(), unknown.copy(), unknown.copy())
