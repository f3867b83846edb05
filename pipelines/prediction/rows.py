"""What is known of the predicted images: one row each, in files of many rows.

The driver writes a row when the image's own files are written. An image without a row is predicted again, so
that killing a run loses nothing but the work of the last rows.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from segray.pipelines.errors import UserError
from segray.pipelines.exporting.base import VAL, Entry
from segray.pipelines.io import storage

_FOLDER = ".rows"
_PART = re.compile(r"part-(\d{8})\.json")
_ROWS, _SECONDS = 256, 30.0
_PARTS_IN_MEMORY = 16

_log = logging.getLogger(__name__)


class ImageRow(TypedDict):
    """An image with a mask.

    `class_confidence` has the mean confidence of the pixels of each of `class_ids`; `objects` is JSON, null
    unless they were asked for.
    """

    image_id: str
    sha256: str
    width: int
    height: int
    class_ids: list[int]
    class_pixels: list[int]
    class_confidence: list[float]
    mean_confidence: float
    objects: str | None


_ROWS_OF_A_PART = TypeAdapter(list[ImageRow])


class _Place(NamedTuple):
    """Where a row is: the number of its part, its own number there, and whether it has objects."""

    number: int
    row: int
    has_objects: bool


class ImageRows:
    """The rows of a prediction, on its storage. Of an image that was predicted twice the later one counts.

    Args:
        out: folder or URI of the prediction.
    """

    def __init__(self, out: str) -> None:
        self._folder = storage.join(out, _FOLDER)
        self._buffer: list[ImageRow] = []
        self._written = time.monotonic()
        self._read = lru_cache(_PARTS_IN_MEMORY)(self._read_part)
        names = storage.list_names(self._folder)
        self._last = 0
        self._places: dict[str, _Place] = {}
        for number in sorted(int(match[1]) for name in names if (match := _PART.fullmatch(name))):
            self._last = number
            self._open(number)

    def done(self, *, objects: bool) -> set[str]:
        """Ids of the images with a row.

        Args:
            objects: count only rows that have them.
        """
        return {i for i, place in self._places.items() if place.has_objects or not objects}

    def sample(self, n: int) -> dict[str, str]:
        """sha256 by image_id of up to n images, evenly spaced."""
        ids = list(self._places)
        chosen = ids[:: max(1, len(ids) // n)][:n]
        return {row["image_id"]: row["sha256"] for row in map(self.get, chosen) if row is not None}

    def add(self, rows: Iterable[ImageRow]) -> None:
        """Keep rows; they are written in parts, as images come fast and object stores are slow.

        Raises:
            UserError: disk full.
        """
        self._buffer += rows
        if len(self._buffer) >= _ROWS or time.monotonic() - self._written > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory.

        Raises:
            UserError: disk full.
        """
        if self._buffer:
            self._last += 1
            storage.write_atomic(self._path(self._last), _ROWS_OF_A_PART.dump_json(self._buffer))
            self._index(self._last, self._buffer)
            self._buffer = []
        self._written = time.monotonic()

    def get(self, image_id: str) -> ImageRow | None:
        """The row of an image; few parts are in memory at a time."""
        place = self._places.get(image_id)
        return self._read(place.number)[place.row] if place else None

    def _open(self, number: int) -> None:
        try:
            self._index(number, self._read(number))
        except ValueError:
            where = storage.display(self._path(number))
            _log.warning("%s is damaged; its images are predicted again", where)
            storage.delete(self._path(number))

    def _index(self, number: int, rows: Sequence[ImageRow]) -> None:
        for index, row in enumerate(rows):
            self._places[row["image_id"]] = _Place(number, index, row["objects"] is not None)

    def _read_part(self, number: int) -> list[ImageRow]:
        try:
            return _ROWS_OF_A_PART.validate_json(storage.read_bytes(self._path(number)))
        except OSError as error:
            where = storage.display(self._path(number))
            raise UserError(f"cannot read {where}: {error}", exit_code=1) from error

    def _path(self, number: int) -> str:
        return storage.join(self._folder, f"part-{number:08}.json")


def entry(row: ImageRow) -> Entry:
    """A row as the formats of `segray export` take it."""
    return {
        "image_id": row["image_id"],
        "split": VAL,
        "width": row["width"],
        "height": row["height"],
        "class_ids": row["class_ids"],
        "class_pixels": row["class_pixels"],
        "lost": 0,
        "data": json.loads(row["objects"] or "[]"),
    }
