"""Write the images of a label set, part by part: what is in memory does not grow with the set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segray.models.label_map import LabelMap
from segray.models.masks import Segment
from segray.pipelines.annotation.relabelling import (
    StoredSegment,
    damaged_row,
    segments_by_image,
)
from segray.pipelines.corrections.correction import Correction, by_image
from segray.pipelines.corrections.store import CorrectedStore
from segray.pipelines.errors import UserError
from segray.pipelines.exporting.base import Encoded, Entry, Format, Sample
from segray.pipelines.exporting.classes import ClassMap
from segray.pipelines.exporting.images import ImageFiles
from segray.pipelines.exporting.journal import Bad, Finished
from segray.pipelines.exporting.plan import Plan
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.label_png import decode_gray_png, decode_label_png
from segray.pipelines.label_set.schema import class_counts
from segray.pipelines.label_set.stored_segments import decode_segments

T = TypeVar("T")

_WORKERS = 4
_BATCH = 16
_COLUMNS = ["image_id", "status", "width", "height", "label", "confidence"]
_SEGMENTS = ["image_id", "area", "class_id", "score", "rle", "predicted_iou", "stability_score"]
_NO_ID = -1
"""No class has it: all pixels are counted, those that are ignored too."""

Segments = Mapping[str, list[StoredSegment]]
Objects = tuple[tuple[int, Segment], ...] | None
Place = tuple[str, str, str | None]
"""image_id, split and location of an image; None: its location is not known."""
Done = tuple[Entry, Mapping[str, Any]] | ImageProblem


@dataclass(frozen=True)
class Writer:
    """What the images of all parts need.

    Attributes:
        source: the label set.
        out: folder or URI of the export.
        form: the layout.
        plan: the images and their splits.
        classes: how ids change.
        min_confidence: below it, a pixel is ignored.
        visible: whether objects are the visible segments.
        images: reads and writes image files.
    """

    source: CorrectedStore
    out: str
    form: Format
    plan: Plan
    classes: ClassMap
    min_confidence: float
    visible: bool
    images: ImageFiles

    def images_of(self, part: str) -> list[Place]:
        """The images of a part."""
        uris, split = self.images.uris, self.plan.split
        return [(image_id, split(image_id), uris.get(image_id)) for image_id in self.plan.images[part]]

    def corrections_of(self, part: str) -> list[Correction]:
        """The corrections of the images of a part."""
        corrections = self.source.corrections
        return [one for image_id in self.plan.images[part] for one in corrections.get(image_id, ())]

    def knowing(self, images: Sequence[Place], corrections: Sequence[Correction] = ()) -> Writer:
        """The same that knows these images and corrections alone: the others stay here."""
        source = CorrectedStore(self.source.root, by_image(corrections))
        uris = {image_id: uri for image_id, _, uri in images if uri is not None}
        plan = Plan.of_splits((image_id, split) for image_id, split, _ in images)
        return replace(self, source=source, plan=plan, images=self.images.at(uris))

    def write_part(self, part: str) -> Finished:
        """Write the files of a part's images.

        Raises:
            UserError: the part is damaged, or a file cannot be written.
        """
        entries: list[Entry] = []
        bad: list[Bad] = []
        shards: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        segments = segments_by_image(self.source, part, _SEGMENTS) if self.visible else {}
        rows = self.source.rows([*_COLUMNS, *self.images.columns], [part])
        good = (row for row in rows if row["status"] == "ok" and row["image_id"] in self.plan.wanted)
        with ThreadPoolExecutor(_WORKERS) as pool:
            for batch in _batches(good, _BATCH):
                results = pool.map(partial(self._image, part, segments), batch)
                for row, done in zip(batch, results, strict=True):
                    if isinstance(done, ImageProblem):
                        bad.append((row["image_id"], done.status, done.reason))
                        continue
                    entry, shard = done
                    entries.append(entry)
                    shards[entry["split"]].append(shard)
        if self.form.in_shards:
            self._write_shards(part, shards)
            self._remove_shards(part, {self.plan.split(image_id) for image_id, _, _ in bad} - shards.keys())
        return {"entries": entries, "bad": bad}

    def _write_shards(self, part: str, shards: Mapping[str, list[Mapping[str, Any]]]) -> None:
        for split, rows in shards.items():
            path, data = self.form.shard(part, split, rows)
            storage.write_atomic(self._uri(path), data)

    def _remove_shards(self, part: str, splits: Iterable[str]) -> None:
        """What an earlier run may have written of images that are all left out now."""
        for split in splits:
            path, _ = self.form.shard(part, split, [])
            storage.delete(self._uri(path))

    def _image(self, part: str, segments: Segments, row: dict[str, Any]) -> Done:
        """Write one image; one that cannot be written leaves no file."""
        split = self.plan.split(row["image_id"])
        label = self._label(part, row)
        try:
            image = self.images.read(row)
            sample = Sample(row["image_id"], split, label, self._objects(part, segments, row), image)
            encoded = self._encode(sample)
            self._write(row, sample, encoded)
        except ImageProblem as problem:
            self._remove(row["image_id"], split)
            return problem
        return _entry(sample, encoded), encoded.row

    def _label(self, part: str, row: dict[str, Any]) -> LabelMap:
        shape = (row["height"], row["width"])
        try:
            label = decode_label_png(row["label"]["bytes"], shape, self.classes.old_ignore)
            confidence = decode_gray_png(row["confidence"]["bytes"], shape)
            return self.classes.apply(label, self._unsure[confidence])
        except (ValueError, TypeError) as problem:  # nulls where values must be
            raise damaged_row(self.source, part, row["image_id"], problem) from problem

    @property
    def _unsure(self) -> NDArray[np.bool_]:
        """bool [256], the stored confidences that are too low."""
        return np.arange(256, dtype=np.float32) / 255 < np.float32(self.min_confidence)

    def _objects(self, part: str, segments: Segments, row: dict[str, Any]) -> Objects:
        if not self.visible:
            return None
        try:
            # As they were drawn: what is smaller lies on top.
            stored = sorted(segments.get(row["image_id"], []), key=lambda s: (-s["area"], s["score"]))
            ids = [int(self.classes.table[s["class_id"]]) for s in stored]
            return tuple(zip(ids, decode_segments(stored, row["height"], row["width"]), strict=True))
        except (ValueError, TypeError, IndexError) as problem:
            raise damaged_row(self.source, part, row["image_id"], problem) from problem

    def _encode(self, sample: Sample) -> Encoded:
        try:
            return self.form.encode(sample)
        except ValueError as problem:
            raise ImageProblem("skipped", str(problem)) from problem

    def _write(self, row: dict[str, Any], sample: Sample, encoded: Encoded) -> None:
        path = self.form.label_path(sample.image_id, sample.split)
        try:
            if sample.image is not None and not self.form.in_shards:
                self.images.write(row, sample.image, self.form.image_path(sample.image_id, sample.split))
            if path is not None and encoded.file is not None:
                storage.write_atomic(self._uri(path), encoded.file)
        except UserError as problem:
            if unfit := storage.unfit_name(problem):
                raise ImageProblem("error", f"no file of this name can be written ({unfit})") from problem
            raise

    def _remove(self, image_id: str, split: str) -> None:
        """What an earlier run may have written of an image."""
        image = None if self.form.in_shards else self.form.image_path(image_id, split)
        for path in filter(None, (image, self.form.label_path(image_id, split))):
            try:
                storage.delete(self._uri(path))
            except UserError as problem:
                if not storage.unfit_name(problem):
                    raise

    def _uri(self, path: str) -> str:
        return storage.join(self.out, *path.split("/"))


def _entry(sample: Sample, encoded: Encoded) -> Entry:
    height, width = sample.label.shape
    ids, pixels = class_counts(sample.label, _NO_ID)
    return {
        "image_id": sample.image_id,
        "split": sample.split,
        "width": width,
        "height": height,
        "class_ids": ids,
        "class_pixels": pixels,
        "lost": encoded.lost,
        "data": encoded.data,
    }


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
