"""Compare all labels with masks, or with other labels, while the page is open."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap, label_dtype
from segray.models.label_space import LabelSpace, ignore_index_of, name_key
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import decode_label_png
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.masks.folder import MaskFolder
from segray.pipelines.review.index import Index, build_index
from segray.pipelines.review.rows import RowReader

_log = logging.getLogger(__name__)


class TruthMasks:
    """Masks of a folder, as maps with the ids of the label set.

    Args:
        folder: of the masks.
        classes: of the label set.

    Raises:
        UserError: colours that are those of no class.
    """

    def __init__(self, folder: MaskFolder, classes: tuple[str, ...]) -> None:
        self._folder, self._classes = folder, classes
        folder.bind(LabelSpace(classes, ()))

    def check(self, image_ids: Iterable[str]) -> None:
        """Check the masks of some images; what else lies in the folder does not count.

        Raises:
            UserError: as `MaskFolder.check_kind`.
        """
        self._folder.check_kind(filter(None, map(self._folder.find, image_ids)), self._classes)

    def read(self, image_id: str, shape: tuple[int, int]) -> LabelMap | None:
        """[H, W]; None without a mask.

        Raises:
            UserError: a mask that is none, or of another size.
        """
        name = self._folder.find(image_id)
        return None if name is None else self._folder.read(name, shape=shape, n_classes=len(self._classes))


class OtherLabels:
    """A second label set, as maps with the ids of the first; classes that the first has not are ignored.

    Args:
        root: the second label set.
        classes: of the first.
    """

    def __init__(self, root: str, classes: tuple[str, ...]) -> None:
        store = LabelStore(root)
        self._index = build_index(store)
        self._rows = RowReader(store, self._index)
        self._ignore = store.ignore_index
        ids = {name_key(name): i for i, name in enumerate(classes)}
        ignore = ignore_index_of(len(classes))
        names = [str(name) for name in store.provenance["classes"]]
        self._table: LabelMap = np.full(self._ignore + 1, ignore, label_dtype(ignore))
        self._table[: len(names)] = [ids.get(name_key(name), ignore) for name in names]
        # id 0 is "no class" in both, whatever it is called.
        self._table[0] = 0

    def read(self, image_id: str, shape: tuple[int, int]) -> LabelMap | None:
        """[H, W]; None if the second label set has no label of the image, or one of another size.

        Raises:
            UserError: a damaged part.
        """
        image = self._index.number.get(image_id)
        if image is None:
            return None
        label = (self._rows.maps(image)["label"] or {}).get("bytes")
        if label is None:
            return None
        try:
            found: LabelMap = self._table[decode_label_png(label, shape, self._ignore)]
        except (ValueError, IndexError):
            return None
        return found


Reference = TruthMasks | OtherLabels


def open_compare(root: str, classes: tuple[str, ...]) -> Reference:
    """A label set, or a folder of masks such as `segray predict` writes.

    Raises:
        UserError: neither.
    """
    if LabelStore(root).parts():
        return OtherLabels(root, classes)
    masks = storage.join(root, "masks")
    return TruthMasks(MaskFolder(masks if storage.exists(masks) else root), classes)


def share_of_errors(label: LabelMap, truth: LabelMap, ignore_index: int) -> float:
    """Share of the pixels that the truth counts and the label has wrong; nan where it counts none."""
    counted = truth != ignore_index
    total = int(counted.sum())
    return float(((label != truth) & counted).sum()) / total if total else float("nan")


def share_of_differences(label: LabelMap, other: LabelMap, ignore_index: int) -> float:
    """Share of the pixels that both have an answer for, and another one; nan where there are none."""
    counted = (label != ignore_index) & (other != ignore_index)
    total = int(counted.sum())
    return float(((label != other) & counted).sum()) / total if total else float("nan")


@dataclass
class Progress:
    """How far the comparison is.

    Attributes:
        done: images that are compared.
        total: images that will be.
        problem: why it ended early; "" if it did not.
    """

    done: int = 0
    total: int = 0
    problem: str = ""


@dataclass
class Scorer:
    """Compares all labels in a thread.

    Attributes:
        store: the label set.
        index: of it.
        record: takes an image's number and its label.
        progress: how far it is.
    """

    store: LabelStore
    index: Index
    record: Callable[[int, LabelMap], None]
    progress: Progress = field(default_factory=Progress)
    _stopped: bool = False

    def start(self) -> None:
        """Begin; the thread ends with the process."""
        self.progress.total = int(self.index.images.labelled.sum())
        threading.Thread(target=self.run, name="segray-scores", daemon=True).start()

    def stop(self) -> None:
        """End after the label that is being compared."""
        self._stopped = True

    def run(self) -> None:
        """Compare every label."""
        try:
            for image, label in self._labels():
                if self._stopped:
                    return
                self.record(image, label)
                self.progress.done += 1
        except UserError as error:
            self.progress.problem = str(error)
            _log.warning("%s", error)

    def _labels(self) -> Iterator[tuple[int, LabelMap]]:
        ignore_index = self.store.ignore_index
        for row in self.store.rows(["image_id", "status", "height", "width", "label"]):
            if row["status"] == "ok" and row["image_id"] in self.index.number:
                yield self.index.number[row["image_id"]], _decoded(row, ignore_index)


def _decoded(row: dict[str, Any], ignore_index: int) -> LabelMap:
    try:
        return decode_label_png(row["label"]["bytes"], (row["height"], row["width"]), ignore_index)
    except (ValueError, TypeError) as problem:
        raise UserError(f"label of {row['image_id']}: {problem}; see segray verify") from None


def class_shares(label: LabelMap, ignore_index: int) -> dict[int, float]:
    """Share of the pixels of each class that a map has."""
    counts: NDArray[np.int64] = np.bincount(label.ravel())
    return {int(i): int(counts[i]) / label.size for i in np.flatnonzero(counts) if i != ignore_index}
