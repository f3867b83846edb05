"""`segray relabel`: new classes, prompts or threshold from stored embeddings and masks; no image, no SAM.

Only CLIP's text encoder runs. Parts are relabelled one after another: memory does not grow with the set.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import click
import numpy as np
import pyarrow as pa
import torch

from segray.models.clip.zero_shot import classify_segments
from segray.models.label_space import LabelSpace, label_space
from segray.pipelines.annotation.parts import part_tables
from segray.pipelines.annotation.run_summary import LabelSetResult, summarise
from segray.pipelines.annotation.stages.classify import TextEmbeddings
from segray.pipelines.annotation.stages.encode import encode_segments
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.loading import dump_redacted
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.config.received import may_be_received
from segray.pipelines.engine.ledger import Tally
from segray.pipelines.engine.provenance import differences, other_configuration, provenance, stored_section
from segray.pipelines.engine.rows import Row
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import MANIFEST
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.label_set.schema import labels_schema, segments_schema
from segray.pipelines.label_set.store import LabelStore, prepare_output, write_part, write_run
from segray.pipelines.label_set.stored_segments import StoredMask, segments_of
from segray.pipelines.printing import visible
from segray.pipelines.understood import classes_line, show


class _StoredSegment(StoredMask):
    """What relabelling reads of a row of the segments table."""

    image_id: str
    embedding: list[float]


@dataclass(frozen=True)
class _Target:
    """What makes the new label set."""

    space: LabelSpace
    text: TextEmbeddings
    record: dict[str, Any]
    dim: int
    run_id: str


def run(config: RelabelConfig) -> None:
    """Relabel and print a summary.

    Raises:
        UserError: as `execute` raises.
    """
    click.echo(execute(config))


def execute(config: RelabelConfig) -> LabelSetResult:
    """Write the relabelled set to `out`; run again, it writes only the missing parts.

    Raises:
        UserError: no label set, no embeddings in it, other CLIP weights than its own, or an `out` that holds
            something else.
    """
    began = time.monotonic()
    source = LabelStore(config.labels)
    if storage.join(config.labels) == storage.join(config.out):
        raise UserError("out must differ from labels: relabel never changes the label set that it reads")
    config = _with_stored_templates(config, source)
    prepare_output(config.out)
    target = _prepare(config, source)
    tally = Tally()
    with RunLock(config.out) as lock:
        store = LabelStore(config.out)
        store.drop_orphans()
        _copy_manifest(config)
        storage.write_atomic(storage.join(config.out, "config.yaml"), dump_redacted(config).encode())
        _drop_outdated(source, store)
        for part in sorted(set(source.parts()) - set(store.parts())):
            tally.rows.update(_relabel_part(source, part, config.out, target, lock.token))
        record = summarise(store, target.record, tally, time.monotonic() - began)
        write_run(config.out, record)
    return LabelSetResult.of(record, config.out)


def _with_stored_templates(config: RelabelConfig, source: LabelStore) -> RelabelConfig:
    """The configuration with the prompt templates of the label set, unless the user names some."""
    if "templates" in config.label.model_fields_set:
        return config
    record = current_provenance(source.provenance)
    stored = stored_section(record, "config", ["label.templates"], config.labels)["label.templates"]
    templates = stored if isinstance(stored, str) else tuple(map(str, stored or ()))
    return config.model_copy(update={"label": config.label.model_copy(update={"templates": templates})})


def _prepare(config: RelabelConfig, source: LabelStore) -> _Target:
    old = current_provenance(source.provenance)
    _require_embeddings(config.labels, source)
    try:
        space = label_space(config.classes, config.label.background_names, config.label.aliases)
        text, templates = _embed_names(config, old, space)
    except ValueError as error:
        raise UserError(str(error)) from error
    show([classes_line(space.classes)])
    clip = {key: value for key, value in _clip_of(old, config).items() if key != "logit_scale"}
    record = provenance(
        config, space, sam=old["sam"], clip=clip, templates=templates, logit_scale=text.logit_scale
    )
    store = LabelStore(config.out)
    if changed := differences(store.provenance, record, RelabelConfig) if store.parts() else []:
        raise UserError(other_configuration(config.out, changed, "give another out=DIR"))
    return _Target(space, text, record, text.embeddings.shape[1], uuid.uuid4().hex[:12])


def _require_embeddings(labels: str, source: LabelStore) -> None:
    if stored_section(source.provenance, "sam", ["model"], labels)["model"] == "none":
        raise UserError(
            f"{storage.display(labels)} was made with sam.model=none and has no segments; "
            "annotate with another SAM to relabel"
        )
    column = source.segments(source.parts()[0], ["embedding"]).schema.field("embedding")
    if pa.types.is_null(column.type):
        raise UserError(
            f"{storage.display(labels)} holds no embeddings; annotate with embeddings=true to relabel"
        )


def _embed_names(
    config: RelabelConfig, old: dict[str, Any], space: LabelSpace
) -> tuple[TextEmbeddings, tuple[str, ...]]:
    """The new names, embedded by the same CLIP as the stored embeddings, and their prompt templates."""
    from segray.models.clip.model import build_text_clip
    from segray.models.clip.text import embed_label_space, resolve_templates

    made_with = _clip_of(old, config)
    weights = config.clip.weights or made_with.get("weights")
    if config.clip.weights is None and not may_be_received("clip.weights", weights):
        where = storage.display(config.labels)
        raise UserError(
            f"clip.weights: {where} was made with {weights}, but a label set may be anyone's and does not "
            "decide what is loaded; give clip.weights=FILE (segray tune: search.clip_weights), whose "
            "checksum is compared"
        )
    clip = build_text_clip(made_with["model"], weights, sha256=made_with["sha256"])
    templates = resolve_templates(config.label.templates)
    bank = embed_label_space(clip, space, templates)
    return TextEmbeddings.from_bank(bank, config.label.threshold), templates


def _clip_of(old: dict[str, Any], config: RelabelConfig) -> dict[str, Any]:
    return stored_section(old, "clip", ["model", "sha256"], config.labels)


def _drop_outdated(source: LabelStore, store: LabelStore) -> None:
    """Discard relabelled parts whose original is gone, or was written again from other files."""
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
    """Relabel one part under its own name; the number of its rows by status."""
    by_image: dict[str, list[_StoredSegment]] = {}
    for segment in source.segments(part).to_pylist():
        by_image.setdefault(segment["image_id"], []).append(segment)
    rows = []
    for row in source.rows(parts=[part]):
        try:
            rows.append(_relabel_row(row, by_image.get(row["image_id"], []), target))
        except (ValueError, TypeError) as problem:  # nulls where values must be
            root, image = storage.display(source.root), visible(str(row["image_id"]))
            raise UserError(
                f"{part} of {root}: {image}: {problem}; see segray verify out={root}", exit_code=1
            ) from problem
    labels = labels_schema(target.record)
    write_part(
        out,
        *part_tables(rows, labels, segments_schema(target.dim, target.record), target.run_id),
        token=token,
    )
    return Counter(row["status"] for row in rows)


def _relabel_row(stored: Mapping[str, Any], segment_rows: list[_StoredSegment], target: _Target) -> Row:
    file = (stored["image"] or {}).get("bytes")
    row = cast("Row", {**stored, "file": file, "segments": None})
    if row["status"] != "ok":
        return row
    pooled = np.array([s["embedding"] for s in segment_rows], np.float16)
    pooled = pooled.reshape(len(segment_rows), target.dim)
    classes = classify_segments(
        torch.from_numpy(pooled).float(), target.text.to_bank(), target.text.threshold
    )
    segments = segments_of(segment_rows, row["height"], row["width"])
    return encode_segments(row, segments, classes, pooled.tobytes(), target.space.ignore_index)
