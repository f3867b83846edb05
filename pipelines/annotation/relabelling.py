"""Write a label set again from its stored embeddings and masks, part by part."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segray.models.label_map import SegmentClasses
from segray.pipelines.annotation.parts import part_tables
from segray.pipelines.annotation.run_summary import LabelSetResult, summarise
from segray.pipelines.annotation.stages.encode import encode_segments
from segray.pipelines.config.loading import dump_redacted
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.config.received import may_be_received
from segray.pipelines.config.schema import Config
from segray.pipelines.corrections.carry import carry_corrections
from segray.pipelines.engine.ledger import Tally
from segray.pipelines.engine.provenance import (
    PLACES,
    differences,
    other_configuration,
    stored_section,
)
from segray.pipelines.engine.rows import RLE, Row
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import MANIFEST
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.label_set.card import write_card
from segray.pipelines.label_set.schema import labels_schema, segments_schema
from segray.pipelines.label_set.store import LabelStore, prepare_output, write_part, write_run
from segray.pipelines.label_set.stored_segments import decode_segments
from segray.pipelines.printing import visible

if TYPE_CHECKING:  # open_clip takes seconds to import
    from segray.models.clip.model import ClipModel


class StoredSegment(TypedDict):
    """What is read of a row of the segments table."""

    image_id: str
    area: int
    class_id: int
    score: float
    margin: float
    runner_up_class: int
    embedding: list[float]
    rle: RLE
    predicted_iou: float
    stability_score: float


Classify = Callable[[Sequence[StoredSegment]], SegmentClasses]
"""Classes of an image's stored segments."""
ByEmbedding = Callable[[NDArray[np.float16], NDArray[np.float64]], SegmentClasses]
"""Classes of segments by their stored embeddings [K, D] and stability scores [K]."""


@dataclass(frozen=True)
class Relabelling:
    """What makes a new label set of a stored one.

    Attributes:
        source: the stored one.
        config: of the command, kept as config.yaml.
        out: folder or URI of the new one.
        record: its provenance.
        ignore_index: of its labels.
        dim: length of the embeddings; None: none are stored.
        classify: gives the segments their new classes.
        run_id: stored with every row.
    """

    source: LabelStore
    config: Config
    out: str
    record: dict[str, Any]
    ignore_index: int
    dim: int | None
    classify: Classify
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def check(self) -> None:
        """Refuse an output with another configuration.

        What it was made from may be in another place than before.

        Raises:
            UserError: with the difference.
        """
        store = LabelStore(self.out)
        if not store.parts():
            return
        old = store.provenance
        places = PLACES if old.get("source") == self.record["source"] else ()
        changed = differences(old, self.record, type(self.config), places)
        if changed := changed or self._other_images(store):
            raise UserError(other_configuration(self.out, changed, "give another out=DIR"))

    def _other_images(self, store: LabelStore) -> list[str]:
        """What differs between a label set in another place and the one that the output was made from."""
        before = (current_provenance(store.provenance).get("config") or {}).get("labels")
        if before == self.record["config"].get("labels"):
            return []
        known = set(self.source.parts())
        parts = store.parts()
        other = [p for p in parts if p not in known or _files(self.source, p) != _files(store, p)]
        where = storage.display(self.source.root)
        return [f"labels: {len(other)} of {len(parts)} parts are not those of {where}"] if other else []

    def write(self, extra: Mapping[str, bytes] | None = None) -> LabelSetResult:
        """Write the parts that are missing.

        Args:
            extra: further files of the label set, by name.

        Raises:
            UserError: a damaged part, a full disk, or another run in `out`.
        """
        began, tally = time.monotonic(), Tally()
        with RunLock(self.out) as lock:
            store = LabelStore(self.out)
            store.drop_orphans()
            self._copy_manifest()
            storage.write_atomic(storage.join(self.out, "config.yaml"), dump_redacted(self.config).encode())
            write_card(self.out)
            for name, data in (extra or {}).items():
                storage.write_atomic(storage.join(self.out, name), data)
            self._drop_outdated(store)
            for part in sorted(set(self.source.parts()) - set(store.parts())):
                tally.rows.update(self._write_part(part, lock.token))
            carry_corrections(self.source.root, self.out)
            record = summarise(store, self.record, tally, time.monotonic() - began)
            write_run(self.out, record)
        return LabelSetResult.of(record, self.out)

    def _copy_manifest(self) -> None:
        manifest = storage.join(self.source.root, MANIFEST)
        if storage.exists(manifest):
            storage.write_atomic(storage.join(self.out, MANIFEST), storage.read_bytes(manifest))

    def _drop_outdated(self, store: LabelStore) -> None:
        """Discard parts whose original is gone, or was written again from other files."""
        sources = set(self.source.parts())
        for part in store.parts():
            if part not in sources or _files(self.source, part) != _files(store, part):
                store.discard(part)

    def _write_part(self, part: str, token: str) -> Counter[str]:
        """Relabel one part under its own name; the number of its rows by status."""
        by_image = segments_by_image(self.source, part)
        rows = []
        for row in self.source.rows(parts=[part]):
            try:
                rows.append(self._relabel_row(row, by_image.get(row["image_id"], [])))
            except (ValueError, TypeError) as problem:  # nulls where values must be
                raise damaged_row(self.source, part, row["image_id"], problem) from problem
        tables = part_tables(
            rows, labels_schema(self.record), segments_schema(self.dim, self.record), self.run_id
        )
        write_part(self.out, *tables, token=token)
        return Counter(row["status"] for row in rows)

    def _relabel_row(self, stored: Mapping[str, Any], rows: list[StoredSegment]) -> Row:
        file = (stored["image"] or {}).get("bytes")
        row = cast("Row", {**stored, "file": file, "segments": None})
        if row["status"] != "ok":
            return row
        classes = self.classify(rows)
        segments = decode_segments(rows, row["height"], row["width"])
        stored_embeddings = None if self.dim is None else embeddings_of(rows, self.dim).tobytes()
        return encode_segments(row, segments, classes, stored_embeddings, self.ignore_index)


def check_places(labels: str, out: str) -> None:
    """Refuse an output that cannot take the new label set of `labels`.

    Raises:
        UserError: it is the same folder, or holds something else.
    """
    if storage.join(labels) == storage.join(out):
        raise UserError("out must differ from labels: the label set that is read is never changed")
    prepare_output(out)


def require_embeddings(source: LabelStore) -> int:
    """The length of the stored embeddings.

    Raises:
        UserError: there is no label set, or none with embeddings.
    """
    where = storage.display(source.root)
    if model := labeller_of(source):
        raise UserError(
            f"{where} was made with annotator={model}, which stores no embeddings to learn from; "
            "segray relabel merges its classes and raises its threshold"
        )
    if stored_section(source.provenance, "sam", ["model"], source.root)["model"] == "none":
        advice = "; masks have taught its pixels already"
        if "calibration" not in source.provenance:
            advice = ", or with calibrate.masks=DIR to let masks teach its pixels"
        raise UserError(
            f"{where} was made with sam.model=none and has no segments; annotate with another SAM to relabel"
            f"{advice}"
        )
    kind = source.segments(source.parts()[0], ["embedding"]).schema.field("embedding").type
    if pa.types.is_null(kind):
        raise UserError(f"{where} holds no embeddings; annotate with embeddings=true to relabel")
    return int(kind.list_size)


def labeller_of(source: LabelStore) -> str | None:
    """The labeller that made a label set, which then has no embeddings; None: SAM and CLIP did.

    Raises:
        UserError: there is no label set, or its record is damaged.
    """
    record = source.provenance
    return (
        stored_section(record, "labeller", ["model"], source.root)["model"] if "labeller" in record else None
    )


def by_embedding(classify: ByEmbedding, dim: int) -> Classify:
    """Classes by the stored embeddings, of length `dim`."""

    def classify_rows(rows: Sequence[StoredSegment]) -> SegmentClasses:
        return classify(embeddings_of(rows, dim), np.array([s["stability_score"] for s in rows], float))

    return classify_rows


def of_pixels(record: Mapping[str, Any]) -> list[str]:
    """The settings of a label set that needed the features of its pixels, which are not stored: `key=value`.

    Args:
        record: its provenance, with today's names.
    """
    config = record.get("config")
    values = config if isinstance(config, dict) else {}
    needing = {"label.pool": "vote", "label.unsegmented": "pixels"}
    return [f"{key}={value}" for key, value in needing.items() if values.get(key) == value]


def build_stored_clip(record: dict[str, Any], labels: str, weights: str | None) -> ClipModel:
    """The text side of the CLIP that made a label set.

    Args:
        record: the label set's provenance.
        labels: the label set, for messages.
        weights: the user's `clip.weights`.

    Raises:
        UserError: the label set names a file or an address, and the user does not.
        ValueError: other weights than its own.
    """
    from segray.models.clip.model import build_text_clip

    made_with = clip_of(record, labels)
    known = known_weights(made_with, labels, weights)
    return build_text_clip(made_with["model"], known, sha256=made_with["sha256"])


def known_weights(made_with: Mapping[str, Any], labels: str, weights: str | None) -> str | None:
    """The weights of a CLIP of `clip_of`: the user's, or a name that anyone may give.

    Raises:
        UserError: the label set `labels` names a file or an address, and the user does not.
    """
    stored: str | None = made_with.get("weights")
    if weights is None and not may_be_received("clip.weights", stored):
        raise UserError(
            f"clip.weights: {storage.display(labels)} was made with {stored}, but a label set may be "
            "anyone's and does not decide what is loaded; give clip.weights=FILE (segray train, tune: "
            "data.clip_weights), whose checksum is compared"
        )
    return weights or stored


def clip_of(record: dict[str, Any], labels: str) -> dict[str, Any]:
    """The CLIP that made a label set, as its provenance names it.

    Raises:
        UserError: it does not.
    """
    return stored_section(record, "clip", ["model", "sha256"], labels)


def segments_by_image(
    source: LabelStore, part: str, columns: list[str] | None = None
) -> dict[str, list[StoredSegment]]:
    """The stored segments of a part, by image_id; with some of their columns, or all."""
    by_image: dict[str, list[StoredSegment]] = {}
    for segment in source.segments(part, columns).to_pylist():
        by_image.setdefault(segment["image_id"], []).append(segment)
    return by_image


def embeddings_of(rows: Sequence[StoredSegment], dim: int) -> NDArray[np.float16]:
    """float16 [K, D]."""
    return np.array([s["embedding"] for s in rows], np.float16).reshape(len(rows), dim)


def damaged_row(source: LabelStore, part: str, image_id: str, problem: Exception) -> UserError:
    """The error of a row that cannot be one of segray's."""
    root = storage.display(source.root)
    return UserError(
        f"{part} of {root}: {visible(str(image_id))}: {problem}; see segray verify out={root}", exit_code=1
    )


def _files(store: LabelStore, part: str) -> list[tuple[str, str | None]]:
    return [(row["image_id"], row["sha256"]) for row in store.rows(["image_id", "sha256"], [part])]
