"""Random access to the labels of a label set: in memory if they are small, else one row group at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa

from segray.models.messages import first_line
from segray.pipelines.corrections.apply import SURE, CorrectedLabel
from segray.pipelines.corrections.store import ByImage, CorrectedStore
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.label_set.part_reader import PartReader
from segray.pipelines.label_set.store import LABELS, DamagedPartError, LabelStore

IN_MEMORY = 1 << 30
"""Bytes of PNG up to which a process holds all labels in memory; beyond, it reads them on demand."""

_COLUMNS = ["label.bytes", "confidence.bytes"]
_GROUPS_KEPT = 8
_PARTS_OPEN = 4

Pngs = tuple[bytes, bytes]


class StoredLabels:
    """The label and confidence PNGs of some images, by image_id in the label set.

    Several threads may read. If the labels are large, a pickle holds little more than an index; open files
    are never pickled.

    Args:
        root: folder or URI of the label set.
        wanted: ids of the images.
        in_memory: bytes of PNG that may be held in memory.
        corrections: by image_id; corrected labels are held in memory besides. Their confidence is `SURE`
            where a hand was, and below it elsewhere.

    Attributes:
        corrected: ids of the images that have corrections.

    Raises:
        DamagedPartError: a part cannot be read.
    """

    def __init__(
        self,
        root: str,
        wanted: Collection[str],
        in_memory: int = IN_MEMORY,
        *,
        corrections: ByImage | None = None,
    ) -> None:
        self.root = root
        self._place: dict[str, tuple[str, int, int]] = {}
        self._in_memory: dict[str, Pngs] = {}
        self._clear_caches()
        size = self._index(frozenset(wanted))
        if size <= in_memory:
            self._in_memory = dict(self._all())
        store = CorrectedStore(root, corrections or {})
        pngs = {
            i: _as_pngs(label, store.ignore_index) for i, label in store.corrected_labels(frozenset(wanted))
        }
        self.corrected = frozenset(pngs)
        self._in_memory |= pngs

    def __getstate__(self) -> dict[str, object]:
        return {
            name: value for name, value in vars(self).items() if name not in {"_files", "_groups", "_lock"}
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._clear_caches()

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._place

    def read(self, image_id: str) -> Pngs | None:
        """The PNG bytes of (label, confidence); None if the label set has no ok row of the image.

        Raises:
            DamagedPartError: the part cannot be read.
        """
        if image_id in self._in_memory:
            return self._in_memory[image_id]
        if image_id not in self._place:
            return None
        part, group, row = self._place[image_id]
        with self._lock:
            return self._group(part, group)[row]

    def _clear_caches(self) -> None:
        self._files: OrderedDict[str, PartReader] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], list[Pngs]] = OrderedDict()
        self._lock = threading.Lock()

    def _index(self, wanted: frozenset[str]) -> int:
        """Index the wanted images; the estimated bytes of their PNGs, by their share of each row group."""
        size = 0.0
        for part in LabelStore(self.root).parts():
            file = self._open(part)
            for group in range(file.num_row_groups):
                table = self._read(part, group, ["image_id", "status"])
                rows = zip(table["image_id"].to_pylist(), table["status"].to_pylist(), strict=True)
                places = {i: (part, group, n) for n, (i, s) in enumerate(rows) if s == "ok" and i in wanted}
                self._place |= places
                size += len(places) / max(table.num_rows, 1) * _png_bytes(file, group)
        return int(size)

    def _all(self) -> Iterator[tuple[str, Pngs]]:
        by_group: dict[tuple[str, int], list[str]] = {}
        for image_id, (part, group, _) in self._place.items():
            by_group.setdefault((part, group), []).append(image_id)
        for (part, group), ids in by_group.items():
            pngs = self._pngs(part, group)
            yield from ((image_id, pngs[self._place[image_id][2]]) for image_id in ids)

    def _group(self, part: str, group: int) -> list[Pngs]:
        key = part, group
        if key not in self._groups:
            self._groups[key] = self._pngs(part, group)
            while len(self._groups) > _GROUPS_KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def _pngs(self, part: str, group: int) -> list[Pngs]:
        table = self._read(part, group, _COLUMNS)
        columns = [pa.chunked_array(table[name]).combine_chunks() for name in ("label", "confidence")]
        label, confidence = (column.field("bytes").to_pylist() for column in columns)
        return list(zip(label, confidence, strict=True))

    def _read(self, part: str, group: int, columns: list[str]) -> pa.Table:
        file = self._open(part)
        try:
            return storage.with_retries(lambda: file.read_row_group(group, columns=columns), self.root)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(part, error) from error

    def _open(self, part: str) -> PartReader:
        if part not in self._files:
            uri = storage.join(self.root, LABELS, part)
            try:
                self._files[part] = storage.with_retries(lambda: PartReader(storage.open_input(uri)), uri)
            except (OSError, pa.ArrowException) as error:
                raise self._damaged(part, error) from error
            while len(self._files) > _PARTS_OPEN:
                self._files.popitem(last=False)
        self._files.move_to_end(part)
        return self._files[part]

    def _damaged(self, part: str, error: Exception) -> DamagedPartError:
        root = storage.display(self.root)
        why = first_line(error)
        repair = f"run: segray verify out={root} repair=true"
        return DamagedPartError(f"data.labels={root}: cannot read {LABELS}/{part} ({why}); {repair}")


def _as_pngs(label: CorrectedLabel, ignore_index: int) -> Pngs:
    by_hand = label.hand & (label.label != ignore_index)
    confidence = np.where(by_hand, np.uint8(SURE), np.minimum(label.confidence, SURE - 1))
    return encode_gray_png(label.label), encode_gray_png(confidence)


def _png_bytes(file: PartReader, group: int) -> int:
    """Bytes of the label and confidence columns of a row group."""
    chunks = file.metadata.row_group(group)
    columns = (chunks.column(i) for i in range(chunks.num_columns))
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema in _COLUMNS)
