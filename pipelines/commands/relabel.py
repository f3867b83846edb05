"""`segray relabel`: new classes, prompts or threshold from stored embeddings and masks; no image, no SAM.

Of CLIP only the text encoder runs. One part after another, so memory does not grow with the label set.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import pyarrow as pa
import torch

from segray.models.clip.zero_shot import classify_segments
from segray.models.label_space import LabelSpace, label_space
from segray.models.masks import Segment, decode_rle, segment_from_mask
from segray.pipelines.annotation.run_summary import summarise
from segray.pipelines.annotation.sink import part_tables
from segray.pipelines.annotation.stages.encode import encode_segments
from segray.pipelines.annotation.stages.segment import Words
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.loading import dump
from segray.pipelines.engine.guard import Row
from segray.pipelines.engine.ledger import Tally
from segray.pipelines.engine.progress import summary_lines
from segray.pipelines.engine.provenance import differences, other_configuration, provenance
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import MANIFEST
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.label_set.schema import labels_schema, segments_schema
from segray.pipelines.label_set.store import LabelStore, prepare_output, write_part, write_run


@dataclass(frozen=True)
class _Target:
    """What the new label set is made with."""

    space: LabelSpace
    words: Words
    record: dict[str, Any]
    dim: int
    run_id: str


def run(config: RelabelConfig) -> None:
    """Write the relabelled set to `out`; the same command again does only the parts that are missing.

    Raises:
        UserError: no label set, no embeddings in it, other CLIP weights than it was made with, or `out` holds
            something else.
    """
    began = time.monotonic()
    source = LabelStore(config.labels)
    if storage.join(config.labels) == storage.join(config.out):
        raise UserError("out must differ from labels: the label set that is read stays as it is")
    prepare_output(config.out)
    target = _prepare(config, source)
    tally = Tally()
    with RunLock(config.out) as lock:
        store = LabelStore(config.out)
        store.drop_orphans()
        _copy_manifest(config)
        storage.write_atomic(storage.join(config.out, "config.yaml"), dump(config).encode())
        _drop_outdated(source, store)
        for part in sorted(set(source.parts()) - set(store.parts())):
            tally.rows.update(_relabel_part(source, part, config.out, target, lock.token))
        record = summarise(store, target.record, tally, time.monotonic() - began)
        write_run(config.out, record)
    click.echo("\n".join(summary_lines(record, storage.display(config.out))))


def _prepare(config: RelabelConfig, source: LabelStore) -> _Target:
    old = source.provenance
    _require_embeddings(config.labels, source)
    try:
        space = label_space(config.classes, config.label.background_names, config.label.aliases)
        words, templates = _words(config, old, space)
    except ValueError as error:
        raise UserError(str(error)) from error
    clip = {key: value for key, value in old["clip"].items() if key != "logit_scale"}
    record = provenance(
        config, space, sam=old["sam"], clip=clip, templates=templates, logit_scale=words.logit_scale
    )
    store = LabelStore(config.out)
    if changed := differences(store.provenance, record, RelabelConfig) if store.parts() else []:
        raise UserError(other_configuration(config.out, changed, "give another out=DIR"))
    return _Target(space, words, record, words.embeddings.shape[1], uuid.uuid4().hex[:12])


def _require_embeddings(labels: str, source: LabelStore) -> None:
    if source.provenance["sam"]["model"] == "none":
        raise UserError(
            f"{storage.display(labels)} was made with sam.model=none and has no segments to name; "
            "annotate with another SAM to relabel"
        )
    column = source.segments(source.parts()[0], ["embedding"]).schema.field("embedding")
    if pa.types.is_null(column.type):
        raise UserError(
            f"{storage.display(labels)} holds no embeddings; annotate with embeddings=true to relabel"
        )


def _words(config: RelabelConfig, old: dict[str, Any], space: LabelSpace) -> tuple[Words, tuple[str, ...]]:
    """The new names, embedded by the very CLIP that made the stored embeddings."""
    from segray.models.clip.model import build_clip
    from segray.models.clip.text import embed_label_space, resolve_templates

    made_with = old["clip"]
    clip = build_clip(made_with["model"], made_with.get("weights"), sha256=made_with["sha256"])
    templates = resolve_templates(config.label.templates)
    bank = embed_label_space(clip, space, templates)
    return Words.of(bank, config.label.threshold), templates


def _drop_outdated(source: LabelStore, store: LabelStore) -> None:
    """Discard relabelled parts whose original has gone, or was made again from other files."""
    kept = set(source.parts())
    for part in store.parts():
        if part not in kept or _files(source, part) != _files(store, part):
            store.discard(part)


def _files(store: LabelStore, part: str) -> list[tuple[str, str | None]]:
    return [(row["image_id"], row["sha256"]) for row in store.rows(["image_id", "sha256"], [part])]


def _copy_manifest(config: RelabelConfig) -> None:
    manifest = storage.join(config.labels, MANIFEST)
    if storage.exists(manifest):
        storage.write_atomic(storage.join(config.out, MANIFEST), storage.read_bytes(manifest))


def _relabel_part(source: LabelStore, part: str, out: str, target: _Target, token: str) -> Counter[str]:
    """Write one part anew under its own name; its rows by status."""
    by_image: dict[str, list[Row]] = {}
    for segment in source.segments(part).to_pylist():
        by_image.setdefault(segment["image_id"], []).append(segment)
    rows = [_relabel_row(row, by_image.get(row["image_id"], []), target) for row in source.rows(parts=[part])]
    labels = labels_schema(target.record)
    write_part(
        out,
        *part_tables(rows, labels, segments_schema(target.dim, target.record), target.run_id),
        token=token,
    )
    return Counter(row["status"] for row in rows)


def _relabel_row(row: Row, stored: list[Row], target: _Target) -> Row:
    common = {**row, "file": (row["image"] or {}).get("bytes")}
    if row["status"] != "ok":
        return {**common, "segments": None}
    segments = [_segment(segment) for segment in stored]
    pooled = np.array([s["embedding"] for s in stored], np.float16).reshape(len(stored), target.dim)
    naming = classify_segments(torch.from_numpy(pooled).float(), target.words.bank(), target.words.threshold)
    height, width = row["height"], row["width"]
    ignore_index = target.space.ignore_index
    found = encode_segments(segments, naming, pooled.tobytes(), height, width, ignore_index)
    return {**common, **found}


def _segment(stored: Row) -> Segment:
    mask = decode_rle(stored["rle"]["size"], stored["rle"]["counts"])
    return segment_from_mask(mask, stored["predicted_iou"], stored["stability_score"])
