"""`segray annotate`: what stands around the graph that labels a pile of images (`annotation.graph`)."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import replace
from typing import Any

import click
import numpy as np

from segray.models.label_space import LabelSpace, label_space
from segray.pipelines.annotation import graph
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.probe import choose
from segray.pipelines.annotation.run_summary import summarise
from segray.pipelines.annotation.stages.segment import Words, clip_features, mask_generator
from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.loading import dump
from segray.pipelines.engine import cluster, ledger
from segray.pipelines.engine.ledger import RemoteLedger, Tally
from segray.pipelines.engine.progress import Progress, summary_lines
from segray.pipelines.engine.provenance import differences, other_configuration, provenance
from segray.pipelines.engine.shared_storage import require_shared
from segray.pipelines.errors import UserError
from segray.pipelines.io import pending, storage
from segray.pipelines.io.images import ImageOptions
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.io.sources import list_images
from segray.pipelines.label_set.store import LabelStore, prepare_output, write_run

_log = logging.getLogger(__name__)


def run(config: AnnotateConfig) -> None:
    """Label the images that have no row yet, and print a summary.

    Raises:
        UserError: bad input; the output belongs to another configuration (2), has too many bad images (3), or
            is in use (4).
    """
    began = time.monotonic()
    space = space_of(config)
    prepare_output(config.out)
    images = list_images(config.images)
    prepared = prepare(config, space)
    config = prepared.config
    with RunLock(config.out) as lock:
        total, n_todo = _open_store(prepared, images)
        tally = Tally()
        if n_todo:
            click.echo(f"{total} images, {n_todo} to do, into {storage.display(config.out)}", err=True)
            tally = _execute(prepared, lock.token, n_todo, total - n_todo)
        else:
            click.echo(f"{total} images, nothing to do in {storage.display(config.out)}", err=True)
        record = summarise(LabelStore(config.out), prepared.provenance, tally, time.monotonic() - began)
        if n_todo or LabelStore(config.out).run() is None:
            write_run(config.out, record)
    click.echo("\n".join(summary_lines(record, storage.display(config.out))))
    _warn_of_unknown_names(config, space)
    _report_bad_images(config, record)


def prepare(config: AnnotateConfig, space: LabelSpace) -> Prepared:
    """Load both models once, so that bad weights are told before the first image, and embed the words.

    Raises:
        UserError: weights or an option that do not fit; another configuration made what is in `out`.
    """
    try:
        prepared = _load(config, space)
    except ValueError as error:
        raise UserError(str(error)) from error
    out = config.out
    if changed := _changes(out, prepared.provenance):
        if not config.new_run:
            advice = "give another out=DIR, or new_run=true to start beside it"
            raise UserError(other_configuration(out, changed, advice))
        out = _free_neighbour(out, prepared.provenance)
        prepare_output(out)
    return replace(prepared, config=config.model_copy(update={"out": out}))


def space_of(config: AnnotateConfig) -> LabelSpace:
    """The classes and their prompts.

    Raises:
        UserError: an unknown name, a class twice, or a file that cannot be read.
    """
    try:
        return label_space(config.classes, config.label.background_names, config.label.aliases)
    except ValueError as error:
        raise UserError(str(error)) from error


def _load(config: AnnotateConfig, space: LabelSpace) -> Prepared:
    from segray.models.clip.model import build_clip
    from segray.models.clip.text import embed_label_space, resolve_templates
    from segray.models.sam.generator import build_sam

    clip = build_clip(config.clip.model, config.clip.weights, sha256=config.clip.sha256)
    templates = resolve_templates(config.label.templates)
    bank = embed_label_space(clip, space, templates)
    words = Words.of(bank, config.label.threshold)
    sam_sha256, seen, clip_size = None, 0, config.clip.image_size or clip.image_size
    if config.sam.model != "none":
        sam, checkpoint = build_sam(config.sam.model, config.sam.weights, sha256=config.sam.sha256)
        sam_sha256 = checkpoint.sha256
        # Options that the models cannot do would make an error row of every image.
        mask_generator(sam, config.sam)
        seen = sam.image_encoder.img_size
    clip_features(clip, config.clip, [np.zeros((8, 8, 3), np.uint8)])
    record = provenance(
        config,
        space,
        sam={"model": config.sam.model, "sha256": sam_sha256},
        clip={
            "model": config.clip.model,
            "sha256": clip.checkpoint.sha256,
            "features": config.clip.features,
            "weights": config.clip.weights,
        },
        templates=templates,
        logit_scale=bank.logit_scale,
    )
    # SAM sees a picture with its long side so long, CLIP a square.
    keep = (max(seen, clip_size), clip_size) if config.image.reduce_jpeg else None
    options = ImageOptions(**config.image.model_dump(exclude={"reduce_jpeg"}), jpeg_size=keep)
    return Prepared(config, space, words, bank.embeddings.shape[1], options, record)


def _changes(out: str, record: dict[str, Any]) -> list[str]:
    store = LabelStore(out)
    return differences(store.provenance, record, AnnotateConfig) if store.parts() else []


def _free_neighbour(out: str, record: dict[str, Any]) -> str:
    """OUT-2, OUT-3, ...: the first that is new, or that this same configuration has begun."""
    number = 2
    while True:
        candidate = f"{out.rstrip('/')}-{number}"
        if not _changes(candidate, record):
            _log.info("new_run: writing to %s", storage.display(candidate))
            return candidate
        number += 1


def _open_store(prepared: Prepared, images: Any) -> tuple[int, int]:
    """Write configuration, manifest and to-do list; how many images there are, and how many are left."""
    config, store = prepared.config, LabelStore(prepared.config.out)
    removed = store.drop_orphans()
    if removed:
        _log.info("removed %d unfinished files of an earlier run", removed)
    total, changed = pending.refresh_manifest(config.out, images)
    storage.write_atomic(storage.join(config.out, "config.yaml"), dump(config).encode())
    done = _done(store, changed)
    pending.accept(config.out)
    n_todo = pending.write_pending(config.out, done)
    if n_todo:
        storage.delete(storage.join(config.out, "run.json"))
    return total, n_todo


def _done(store: LabelStore, changed: set[str]) -> set[str]:
    """Ids with a row.

    A part with an image whose file has changed is taken out whole: rewriting it without that image could be
    cut in the middle, making its images again cannot.
    """
    stale = {part for image_id, _, part in store.statuses() if image_id in changed} if changed else set()
    for part in sorted(stale):
        store.discard(part)
    if stale:
        _log.info("%d images have changed; %d parts are made again", len(changed), len(stale))
    return {image_id for image_id, _, _ in store.statuses()}


def _execute(prepared: Prepared, token: str, n_todo: int, before: int) -> Tally:
    config = prepared.config
    with cluster.session(config.address, config.grow) as resources:
        require_shared(config.out, [config.images])
        cluster.quiet_data_context()
        pools = choose(prepared, resources, n_todo, pending.read_pending(config.out))
        book = ledger.start()
        try:
            with Progress(book, n_todo, before):
                graph.label(prepared, token, n_todo, resources, pools.plans, book)
        except KeyboardInterrupt:
            _print_resume_hint(config, book)
            raise
        except Exception as error:
            raise _as_user_error(error) from error
        workers = {name: plan.max_workers for name, plan in pools.plans.items()}
        return replace(book.tally(), workers=workers, probe=pools.probe)


def _print_resume_hint(config: AnnotateConfig, book: RemoteLedger) -> None:
    done = sum(book.tally().rows.values())
    click.echo(
        f"\nstopped; {done} images of this run are safe in {storage.display(config.out)}, "
        "the same command goes on",
        err=True,
    )


def _as_user_error(error: Exception) -> Exception:
    """Ray wraps what a worker raised: a UserError inside is the message, anything else stays as it is."""
    from ray.exceptions import RayError

    cause: BaseException | None = error
    while cause is not None:
        # Ray's wrapper is a UserError too, whose text is the worker's traceback.
        if isinstance(cause, UserError) and not isinstance(cause, RayError):
            # Ray Data adds lines of advice to the text.
            return UserError(str(cause).splitlines()[0], exit_code=cause.exit_code)
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error


def _warn_of_unknown_names(config: AnnotateConfig, space: LabelSpace) -> None:
    """The built-in models label anything, with whatever names; that it means nothing does not show."""
    built_in = "picture_book" in (config.sam.model, config.clip.model)
    strange = set(space.classes) - set(label_space("picture_book").classes)
    if built_in and strange:
        click.echo(
            "note: the built-in models know the picture book and nothing else: labels of other pictures mean "
            "nothing; sam.model=vit_b clip.model=ViT-B-16-quickgelu clip.weights=openai are real ones",
            err=True,
        )


def _report_bad_images(config: AnnotateConfig, record: dict[str, Any]) -> None:
    rows = record["rows"]
    bad, total = rows["error"] + rows["skipped"], sum(rows.values())
    for image_id, status, reason in record["bad"]:
        click.echo(f"  {status:<8}{image_id}: {reason}", err=True)
    if bad > len(record["bad"]):
        click.echo(f"  ... and {bad - len(record['bad'])} more bad images", err=True)
    sys.stdout.flush()
    if bad == total:
        raise UserError(f"not one of {total} images could be labelled", exit_code=3)
    if config.max_bad is not None and bad > config.max_bad * total:
        limit = f"max_bad={config.max_bad:g} allows fewer"
        raise UserError(f"{bad} of {total} images are bad, {limit}", exit_code=3)
