"""The segments of a label set as maps of numbers, which ride through crop and flip with the labels."""

from __future__ import annotations

import zlib
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.label_set.stored_segments import number_segments

_COLUMNS = ["image_id", "score", "rle", "predicted_iou", "stability_score"]
_MOST = np.iinfo(np.int16).max


class SegmentMaps:
    """Segment numbers of some images, by image_id in the label set; held in memory, compressed once drawn.

    Args:
        root: folder or URI of the label set.
        wanted: ids of the images.

    Raises:
        UserError: the label set has no segments of them.
        DamagedPartError: a part cannot be read.
    """

    def __init__(self, root: str, wanted: Collection[str]) -> None:
        self.root, chosen, store = root, frozenset(wanted), LabelStore(root)
        self._drawn: dict[str, bytes] = {}
        self._rows: dict[str, list[dict[str, object]]] = {}
        for part in store.parts():
            for row in store.segments(part, _COLUMNS).to_pylist():
                if row["image_id"] in chosen:
                    self._rows.setdefault(row["image_id"], []).append(row)
        if not self._rows:
            raise _no_segments(root)

    def read(self, image_id: str, shape: tuple[int, int]) -> NDArray[np.int16]:
        """[H, W]: 1, 2, ... from the largest segment on, smaller ones on top; 0 where there is none.

        Raises:
            UserError: the segments are not those of an image of this shape.
        """
        if image_id in self._rows and image_id not in self._drawn:
            self._drawn[image_id] = zlib.compress(self._draw(image_id, shape).tobytes(), 1)
            self._rows[image_id] = []
        if image_id not in self._drawn:
            return np.zeros(shape, np.int16)
        numbers = np.frombuffer(zlib.decompress(self._drawn[image_id]), np.int16)
        return numbers.reshape(shape).copy()

    def _draw(self, image_id: str, shape: tuple[int, int]) -> NDArray[np.int16]:
        try:
            return number_segments(self._rows[image_id][:_MOST], *shape)[0].astype(np.int16)
        except ValueError as problem:
            where = f"data.labels={storage.display(self.root)}"
            raise UserError(f"{where}: the segments of {image_id}: {problem}; annotate it again") from None


def check_segments(root: str) -> None:
    """Refuse a label set without any segment.

    Raises:
        UserError: it has none.
        DamagedPartError: a part cannot be read.
    """
    store = LabelStore(root)
    if not any(store.segments(part, ["image_id"]).num_rows for part in store.parts()):
        raise _no_segments(root)


def _no_segments(root: str) -> UserError:
    where = storage.display(root)
    return UserError(
        f"pseudo.segments: data.labels={where} has no segments; pseudo.segments=false does without"
    )
