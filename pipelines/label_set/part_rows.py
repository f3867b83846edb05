"""Read some rows of a part of a label set, wherever it is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from segray.pipelines.io import storage
from segray.pipelines.label_set.part_reader import PartReader
from segray.pipelines.label_set.store import LABELS, LabelStore

T = TypeVar("T")


def read_part(store: LabelStore, part: str, read: Callable[[PartReader], T]) -> T:
    """What `read` makes of a part of the labels, again after passing errors of the storage.

    Raises:
        UserError: as `LabelStore.guarded`.
    """

    def opened() -> T:
        with PartReader(storage.open_input(storage.join(store.root, LABELS, part))) as file:
            return read(file)

    return store.guarded(LABELS, part, opened)
