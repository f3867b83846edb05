"""After a correction: the segments of the whole set that look like the corrected one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.review.index import Ints
from segray.pipelines.review.neighbours import Neighbours, NeighbourSearch


@dataclass(frozen=True)
class Alike:
    """Segments that may need the same correction.

    Attributes:
        found: segments, the nearest first.
        alike: bool [K], looks more like the corrected segment than like its own class.
    """

    found: Neighbours
    alike: NDArray[np.bool_]


def find_alike(
    search: NeighbourSearch,
    class_id: Ints,
    settled: NDArray[np.bool_],
    row: int,
    new_class: int,
    count: int,
) -> Alike:
    """The segments nearest to a corrected one that have another class.

    Args:
        search: over all segments.
        class_id: int32 [S], the classes that they have now.
        settled: bool [S], segments that hands have classed already, and those of images that are good.
        row: the corrected segment.
        new_class: its class.
        count: how many at most.
    """
    found = search.nearest(row, (class_id != new_class) & ~settled, count)
    return Alike(found, 1 - found.distances > search.likeness_to_class(found.rows, class_id[found.rows]))
