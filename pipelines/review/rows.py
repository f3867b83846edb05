"""Read single rows of a label set: the group of rows around one is kept, as its neighbours come next."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa

from segray.pipelines.annotation.relabelling import StoredSegment
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.part_reader import PartReader
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
        uri = storage.join(self._store.root, LABELS, part)
        try:
            return storage.with_retries(partial(self._find, uri, part, row, columns), uri)
        except (OSError, pa.ArrowException) as error:
            repair = f"segray verify out={storage.display(self._store.root)} repair=true"
            raise UserError(f"{storage.display(uri)} is damaged ({error}); run: {repair}") from error

    def _find(self, uri: str, part: str, row: int, columns: list[str]) -> dict[str, Any]:
        start = 0
        with PartReader(storage.open_input(uri)) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if row < start + count:
                    key = (part, group, columns is _PHOTO)
                    table = self._tables.get(key, lambda: file.read_row_group(group, columns=columns))  # noqa: B023
                    found: dict[str, Any] = table.slice(row - start, 1).to_pylist()[0]
                    return found
                start += count
        raise UserError(
            f"{storage.display(uri)} has changed since the page was opened; start segray serve again"
        )
