"""A label set as people corrected it: the reader that exports, reports and training use."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from segray.pipelines.corrections.apply import CorrectedLabel, StoredLabel, apply_corrections
from segray.pipelines.corrections.correction import Correction
from segray.pipelines.corrections.log import CorrectionLog
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.label_set.schema import class_counts
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.printing import visible

_NEEDED = ["image_id", "status", "width", "height", "label.bytes", "confidence.bytes"]
_DERIVED = {"label", "confidence", "class_ids", "class_pixels", "mean_confidence", "labelled_fraction"}
_SEGMENTS = ["image_id", "segment_id", "area", "score", "class_id", "rle", "predicted_iou", "stability_score"]

ByImage = Mapping[str, Sequence[Correction]]


class CorrectedStore(LabelStore):
    """`LabelStore` with corrected rows and segments; the parts themselves are not changed.

    Masks of segments stay as they are: a split or a paint is in the label map alone.

    Args:
        root: folder or URI of the label set.
        corrections: by image_id; None: those of its log.
    """

    def __init__(self, root: str, corrections: ByImage | None = None) -> None:
        super().__init__(root)
        self._corrections = corrections
        self._segments: tuple[str, dict[str, list[dict[str, Any]]]] = ("", {})

    @cached_property
    def corrections(self) -> ByImage:
        """By image_id.

        Raises:
            UserError: as `CorrectionLog.read`.
        """
        return CorrectionLog(self.root).by_image() if self._corrections is None else self._corrections

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        return tuple(map(str, self.provenance["classes"]))

    @property
    def ignore_index(self) -> int:
        """As of `LabelStore`, read once: it is asked for at each image."""
        return self._ignore

    @cached_property
    def _ignore(self) -> int:
        return super().ignore_index

    def fingerprint(self) -> str:
        """As of the label set, and of all corrections."""
        own = super().fingerprint()
        keys = sorted(one.key for group in self.corrections.values() for one in group)
        return hashlib.sha256("\n".join([own, *keys]).encode()).hexdigest() if keys else own

    def rows(
        self, columns: list[str] | None = None, parts: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Corrected rows, see `LabelStore.rows`.

        Raises:
            UserError: a correction that does not fit its image.
        """
        wanted = None if columns is None else {name.partition(".")[0] for name in columns}
        if not self.corrections or not (wanted is None or wanted & _DERIVED):
            yield from super().rows(columns, parts)
            return
        there = {"label", "confidence"} & set(columns or ())
        needed = [name for name in _NEEDED if name.partition(".")[0] not in there]
        read = None if columns is None else list(dict.fromkeys([*columns, *needed]))
        for part in self.parts() if parts is None else parts:
            for row in super().rows(read, [part]):
                corrected = self.correct(row, part)
                yield corrected if wanted is None else {k: v for k, v in corrected.items() if k in wanted}

    def segments(self, part: str, columns: list[str] | None = None) -> pa.Table:
        """The segments of a part, with the classes that they have by hand; 0 where a hand says unknown.

        Raises:
            UserError: as `rows`.
        """
        table = super().segments(part, columns)
        if "class_id" not in table.column_names or not self.corrections:
            return table
        keys = super().segments(part, ["image_id", "segment_id"])
        if self.corrections.keys().isdisjoint(keys["image_id"].unique().to_pylist()):
            return table
        new = self._segment_classes(part)
        pairs = zip(keys["image_id"].to_pylist(), keys["segment_id"].to_pylist(), strict=True)
        old = table["class_id"].to_pylist()
        ids = [new.get(pair, class_id) for pair, class_id in zip(pairs, old, strict=True)]
        index = table.schema.get_field_index("class_id")
        return table.set_column(index, table.schema.field(index), pa.array(ids, pa.int16()))

    def correct(self, row: dict[str, Any], part: str) -> dict[str, Any]:
        """A row with the corrected label, confidence and what is counted from them.

        Args:
            row: of the labels table, with the columns of a `StoredLabel`.
            part: that it is in.

        Raises:
            UserError: as `rows`.
        """
        if row["status"] != "ok" or row["image_id"] not in self.corrections:
            return row
        corrected = self.apply(row, part)
        ids, pixels = class_counts(corrected.label, self._ignore)
        levels = corrected.confidence[corrected.confidence > 0]
        return {
            **row,
            "label": {**row["label"], "bytes": encode_gray_png(corrected.label)},
            "confidence": {**row["confidence"], "bytes": encode_gray_png(corrected.confidence)},
            "class_ids": ids,
            "class_pixels": pixels,
            "mean_confidence": float(levels.mean()) / 255 if levels.size else 0.0,
            "labelled_fraction": levels.size / corrected.label.size,
        }

    def apply(self, row: Mapping[str, Any], part: str) -> CorrectedLabel:
        """The corrected label of an ok row.

        Raises:
            UserError: as `rows`.
        """
        image_id = row["image_id"]
        corrections = self.corrections.get(image_id, ())
        try:
            segments = self._segments_of(part).get(image_id, []) if corrections else []
            stored = StoredLabel.of_row(row, segments, self._classes, self._ignore)
            return apply_corrections(stored, corrections)
        except (ValueError, TypeError) as problem:  # nulls where values must be
            where = f"{storage.display(self.root)}: {visible(str(image_id))}"
            raise UserError(f"{where}: {problem}; see segray verify", exit_code=1) from problem

    def corrected_labels(self, wanted: Container[str] | None = None) -> Iterator[tuple[str, CorrectedLabel]]:
        """(image_id, label) of the images with corrections; None: of all of them.

        Raises:
            UserError: as `rows`.
        """
        names = {i for i in self.corrections if wanted is None or i in wanted}
        yield from self.labels(names)

    def labels(self, wanted: Collection[str]) -> Iterator[tuple[str, CorrectedLabel]]:
        """(image_id, label) of labelled images, also of those without a correction.

        Raises:
            UserError: as `rows`.
        """
        for part, row in self._rows_of(wanted):
            yield row["image_id"], self.apply(row, part)

    def problems(self) -> dict[str, str]:
        """Why the corrections of an image do not fit it, by image_id.

        Raises:
            UserError: as `CorrectionLog.read`.
        """
        found: dict[str, str] = {}
        for part, row in self._rows_of(self.corrections):
            try:
                self.apply(row, part)
            except UserError as problem:
                found[row["image_id"]] = str(problem)
        return found

    def _rows_of(self, names: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(part, row) of some labelled images."""
        found = {part for image_id, _, part in self.statuses() if image_id in names} if names else set()
        for part in sorted(found):
            for row in super().rows(_NEEDED, [part]):
                if row["status"] == "ok" and row["image_id"] in names:
                    yield part, row

    def _segments_of(self, part: str) -> dict[str, list[dict[str, Any]]]:
        """The stored segments of a part's corrected images; of the part that was asked for last."""
        if self._segments[0] != part:
            by_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
            table = super().segments(part, _SEGMENTS)
            names = pa.array(sorted(self.corrections), pa.string())
            for row in table.filter(pc.is_in(table["image_id"], names)).to_pylist():
                by_image[row["image_id"]].append(row)
            self._segments = part, by_image
        return self._segments[1]

    def _segment_classes(self, part: str) -> dict[tuple[str, int], int]:
        """The class of each segment of the part's corrected images, by image_id and segment_id."""
        found: dict[tuple[str, int], int] = {}
        for row in super().rows(_NEEDED, [part]):
            if row["status"] == "ok" and row["image_id"] in self.corrections:
                for number, class_id in self.apply(row, part).segments.items():
                    found[row["image_id"], number] = 0 if class_id == self._ignore else class_id
        return found
