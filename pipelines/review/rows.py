"""Read single rows of a label set: the group of rows around one is kept, as its neighbours come next."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa

from segray.pipelines.annotation.relabelling import StoredSegment
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.part_reader import PartReader
from segray.pipelines.label_set.part_rows import read_part
from segray.pipelines.label_set.store import LABELS, LabelStore
from segray.pipelines.review.cache import BoundedCache
from segray.pipelines.review.index import Index

_LIMIT = 256 << 20
_MAPS = ["image_id", "status", "width", "height", "label", "confidence", "sha256", "n_segments"]
_PHOTO = ["image_id", "image", "sha256", "width", "height"]
_SEGMENTS = ["image_id", "segment_id", "area", "class_id", "score", "margin", "predicted_iou"]
_SEGMENTS += ["stability_score", "runner_up_class", "rle"]


class NumberedSegment(StoredSegment):
    """A stored segment with its number in the image."""

    segment_id: int


class RowReader:
    """Rows of a label set by the numbers of an index.

    Args:
        store: the label set.
        index: of it.
    """

    def __init__(self, store: LabelStore, index: Index) -> None:
        self._store, self._index = store, index
        self._tables: BoundedCache[pa.Table] = BoundedCache(_LIMIT, lambda table: int(table.nbytes))

    def maps(self, image: int) -> dict[str, Any]:
        """A row with its label and confidence, without the image.

        Raises:
            UserError: a damaged part.
        """
        return self._row(image, _MAPS)

    def photo(self, image: int) -> dict[str, Any]:
        """A row with what `Photos` reads.

        Raises:
            UserError: a damaged part.
        """
        return self._row(image, _PHOTO)

    def segments(self, image: int) -> list[NumberedSegment]:
        """The stored segments of an image, by segment_id; without their embeddings.

        Raises:
            UserError: a damaged part.
        """
        part = self._index.parts[self._index.images.part[image]]
        table = self._tables.get(part, lambda: self._store.segments(part, _SEGMENTS))
        mine = table.filter(pa.compute.equal(table["image_id"], self._index.images.ids[image]))
        return sorted(mine.to_pylist(), key=lambda segment: segment["segment_id"])

    def _row(self, image: int, columns: list[str]) -> dict[str, Any]:
        images = self._index.images
        part, row = self._index.parts[images.part[image]], int(images.row[image])
        return read_part(self._store, part, partial(self._find, part, row, columns))

    def _find(self, part: str, row: int, columns: list[str], file: PartReader) -> dict[str, Any]:
        for group, inside in file.groups_of([row]):
            key = (part, group, columns is _PHOTO)
            table = self._tables.get(key, lambda: file.read_row_group(group, columns=columns))  # noqa: B023
            found: dict[str, Any] = table.slice(inside[0], 1).to_pylist()[0]
            return found
        where = storage.display(storage.join(self._store.root, LABELS, part))
        raise UserError(f"{where} has changed since the page was opened; start segray serve again")
