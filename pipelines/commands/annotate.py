"""`segray annotate`: validate the configuration, size the worker pools, run the graph, write the summary."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from segray.models.label_space import LabelSpace, label_space, name_key
from segray.pipelines.annotation import local
from segray.pipelines.annotation.auto_precision import recorded_precisions, with_precisions
from segray.pipelines.annotation.labelled_images import other_images, recorded_place
from segray.pipelines.annotation.models import Models, open_models
from segray.pipelines.annotation.prepared import Prepared
from segray.pipelines.annotation.run import label_pending
from segray.pipelines.annotation.run_summary import LabelSetResult, summarise
from segray.pipelines.annotation.stages.classify import TextEmbeddings
from segray.pipelines.calibration.description import FILE, to_json
from segray.pipelines.config.commands.annotate import SAM_CLIP, AnnotateConfig
from segray.pipelines.config.loading import dump_redacted
from segray.pipelines.engine import cluster, single_process
from segray.pipelines.engine.image_values import pending_lines
from segray.pipelines.engine.ledger import Tally
from segray.pipelines.engine.provenance import PLACES, differences, other_configuration, provenance
from segray.pipelines.engine.same_images import place_of
from segray.pipelines.engine.waiting import Waiting
from segray.pipelines.errors import UserError
from segray.pipelines.io import pending, storage
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.io.sources import LeftOut, list_images
from segray.pipelines.label_set.card import write_card
from segray.pipelines.label_set.store import LabelStore, prepare_output, write_run
from segray.pipelines.printing import echo, visible
from segray.pipelines.understood import classes_line, show

if TYPE_CHECKING:  # torch and open_clip take seconds to import
    from segray.models.clip.model import ClipModel
    from segray.pipelines.calibration.masked_images import MaskedRef

_log = logging.getLogger(__name__)


def run(config: AnnotateConfig) -> None:
    """Label the images that have no row yet, and print a summary.

    Raises:
        UserError: as `execute` and `check_bad_images` raise.
    """
    result = execute(config)
    echo(result)
    _warn_of_unknown_names(config, space_of(config))
    _report_bad_images(result)
    check_bad_images(config, result)


def execute(config: AnnotateConfig) -> LabelSetResult:
    """Label the images that have no row yet.

    Raises:
        UserError: bad input; the output belongs to another configuration (2) or is in use (4).
    """
    began = time.monotonic()
    space = space_of(config)
    show([classes_line(space.classes)])
    prepare_output(config.out)
    if LabelStore(config.out).run() is None:
        cluster.check_start(config.address)
    left_out = LeftOut()
    follow = config.image.follow_links
    images = list_images(
        config.images, config.image.roots, follow=follow, left_out=left_out, column=config.image.column
    )
    first = list(islice(images, single_process.FEW + 1))
    masked = masked_images(config, space)
    prepared = prepare(config, space, load=local.suits(config, len(first)), masked=masked)
    config = prepared.config
    with RunLock(config.out) as lock:
        total, n_pending = _open_store(prepared, chain(first, images))
        show([str(left_out)] if left_out else [])
        tally = Tally()
        if n_pending:
            echo(f"{total} images, {n_pending} to do, into {storage.display(config.out)}", err=True)
            show(pending_lines(pending.read_pending(config.out), n_pending, prepared.options))
            tally = label_pending(prepared, lock.token, n_pending, total - n_pending)
        else:
            echo(f"{total} images, nothing to do in {storage.display(config.out)}", err=True)
        record = summarise(LabelStore(config.out), prepared.provenance, tally, time.monotonic() - began)
        if n_pending or LabelStore(config.out).run() is None:
            write_run(config.out, record)
    return LabelSetResult.of(record, config.out)


def masked_images(config: AnnotateConfig, space: LabelSpace) -> dict[str, MaskedRef] | None:
    """The images whose masks teach, by image_id; None if no masks do.

    From a listing of their own, as the run's is read while it goes on.

    Raises:
        UserError: see `find_masked`.
    """
    if config.calibrate.masks is None:
        return None
    from segray.pipelines.calibration.masked_images import find_masked

    listed = list_images(
        config.images, config.image.roots, follow=config.image.follow_links, column=config.image.column
    )
    with Waiting("the images with masks to be found"):
        return find_masked(config, listed, space.classes)


def prepare(
    config: AnnotateConfig,
    space: LabelSpace,
    *,
    load: bool = False,
    masked: Mapping[str, MaskedRef] | None = None,
) -> Prepared:
    """Check the models, so that bad weights are reported before the first image; embed names for CLIP.

    Args:
        config: of the command.
        space: the classes and their names.
        load: load the models, for a run in this process.
        masked: images whose masks teach the names of pixels; None: none do.

    Raises:
        UserError: weights, an option or masks that do not fit; `out` was made with another configuration.
    """
    out, chosen = config.out, with_precisions(config, recorded_precisions(config.out))
    try:
        with Waiting("the models to load, or their weights to be checked"):
            models = open_models(config, load=load)
            prepared = _prepared(chosen, space, models)
            # What masks teach is compared below: it takes a while.
            recorded = _recorded_calibration(out)
            alike = prepared if masked is None else _as_recorded(prepared, recorded)
            if beside := _goes_beside(config, out, alike):
                prepared, recorded = _prepared(with_precisions(config, {}), space, models), {}
    except ValueError as error:
        raise UserError(str(error)) from error
    if masked is not None:
        prepared = _calibrated(prepared, models, masked, recorded)
        beside = beside or _goes_beside(config, out, prepared)
    if beside:
        out = _free_neighbour(out, prepared)
        prepare_output(out)
    return replace(prepared, config=prepared.config.model_copy(update={"out": out}))


def _goes_beside(config: AnnotateConfig, out: str, prepared: Prepared) -> bool:
    """Whether `out` was made with another configuration, and `new_run` takes another one.

    Raises:
        UserError: it was, and `new_run` is not set.
    """
    changed = _changes(out, prepared)
    if changed and not config.new_run:
        advice = "give another out=DIR, or new_run=true to start beside it"
        raise UserError(other_configuration(out, changed, advice))
    return bool(changed)


def _as_recorded(prepared: Prepared, recorded: dict[str, Any]) -> Prepared:
    """The run as if its masks taught what those of the label set did; of one without any it differs."""
    calibration = recorded or {"sha256": "these masks"}
    return replace(prepared, provenance={**prepared.provenance, "calibration": calibration})


def _recorded_calibration(out: str) -> dict[str, Any]:
    """What masks chose for the label set in `out`; {} if there is none, or no mask taught it."""
    store = LabelStore(out)
    recorded = store.provenance.get("calibration") if store.parts() else None
    return recorded if isinstance(recorded, dict) else {}


def space_of(config: AnnotateConfig) -> LabelSpace:
    """The classes and their prompts.

    Raises:
        UserError: an unknown name, a class twice, or a file that cannot be read.
    """
    background = config.label.background_names
    if background is None and config.annotator != SAM_CLIP:
        # Where CLIP must choose among names, a labeller says of each that it is not there.
        background = ()
    try:
        return label_space(config.classes, background, config.label.aliases)
    except ValueError as error:
        raise UserError(str(error)) from error


def _prepared(config: AnnotateConfig, space: LabelSpace, models: Models) -> Prepared:
    if models.clip is not None:
        return _with_clip(config, space, models, models.clip)
    made_by = {"labeller": {"model": config.annotator, "sha256": models.sha256["labeller"]}}
    record = provenance(config, space, models=made_by, templates=())
    keep = (models.size, models.size) if config.image.reduce_jpeg else None
    options = config.image.options(config.images, keep)
    return Prepared(config, space, None, None, options, record, models.loaded)


def _with_clip(config: AnnotateConfig, space: LabelSpace, models: Models, clip: ClipModel) -> Prepared:
    from segray.models.clip.refinement import REFINED_SIDE
    from segray.models.clip.text import embed_label_space, resolve_templates

    templates = resolve_templates(config.label.templates)
    classifier = embed_label_space(clip, space, templates)
    text = replace(
        TextEmbeddings.from_classifier(classifier, config.label.threshold),
        vote=config.label.pool == "vote",
        unsegmented=config.label.unsegmented == "pixels",
        refine=config.clip.refine,
    )
    clip_size = config.clip.image_size or clip.image_size
    made_by: dict[str, dict[str, Any]] = {
        "sam": {"model": config.sam.model, "sha256": models.sha256["sam"]},
        "clip": {
            "model": config.clip.model,
            "sha256": models.sha256["clip"],
            "features": config.clip.features,
            "weights": config.clip.weights,
            "logit_scale": classifier.logit_scale,
            **proxy_record(clip),
        },
    }
    record = provenance(config, space, models=made_by, templates=templates)
    # The sizes that the models need: SAM's and the edges' of the long side, CLIP's of both.
    edges = REFINED_SIDE if config.clip.refine else 0
    keep = (max(models.size, clip_size, edges), clip_size) if config.image.reduce_jpeg else None
    return Prepared(
        config,
        space,
        text,
        classifier.embeddings.shape[1],
        config.image.options(config.images, keep),
        record,
        models.loaded,
    )


def _calibrated(
    prepared: Prepared, models: Models, masked: Mapping[str, MaskedRef], recorded: Mapping[str, Any]
) -> Prepared:
    """The run as masks choose it, or as they did for the label set that it resumes."""
    import torch

    from segray.pipelines.calibration.pixels import REFINE_STEPS, calibrate_pixels

    refined = {"clip": prepared.config.clip.model_copy(update={"refine": REFINE_STEPS})}
    reader = _prepared(prepared.config.model_copy(update=refined), prepared.space, models).options
    with Waiting("the masks to teach the names of pixels"):
        loaded = models.clip if models.loaded else None
        prepared = replace(prepared, options=reader)
        calibration = calibrate_pixels(prepared, masked, loaded, recorded)
    # A GPU that this process has used is the workers' from here on; without one nothing happens.
    torch.cuda.empty_cache()
    show(calibration.lines())
    description = calibration.description()
    return replace(
        prepared,
        text=calibration.text,
        provenance={**prepared.provenance, "calibration": calibration.record()},
        calibration=None if description is None else to_json(description),
    )


def proxy_record(clip: ClipModel) -> dict[str, Any]:
    """What the label set records of the vision model beside CLIP; nothing without one."""
    if clip.proxy is None:
        return {}
    return {"proxy": {"model": clip.proxy.name, "sha256": clip.proxy.checkpoint.sha256}}


def _changes(out: str, prepared: Prepared) -> list[str]:
    store = LabelStore(out)
    if not store.parts():
        return []
    changed = differences(store.provenance, prepared.provenance, AnnotateConfig, PLACES)
    return changed or other_images(prepared.config, out)


def _free_neighbour(out: str, prepared: Prepared) -> str:
    """OUT-2, OUT-3, ...: the first that is new, or that this same configuration has begun."""
    number = 2
    while True:
        candidate = f"{out.rstrip('/')}-{number}"
        if not _changes(candidate, prepared):
            _log.info("new_run: writing to %s", storage.display(candidate))
            return candidate
        number += 1


def _open_store(prepared: Prepared, images: Iterable[ImageRef]) -> tuple[int, int]:
    """Write configuration, manifest and list of pending images.

    Returns:
        The number of images, and how many of them are pending.
    """
    config, store = prepared.config, LabelStore(prepared.config.out)
    removed = store.drop_orphans()
    if removed:
        _log.info("removed %d unfinished files of an earlier run", removed)
    total, changed = pending.refresh_manifest(config.out, images)
    done = _done(store, changed)
    pending.commit_manifest(config.out)
    n_pending = pending.write_pending(config.out, done)
    stored = storage.join(config.out, "config.yaml")
    if n_pending or recorded_place(config.out) != place_of(config):
        storage.write_atomic(stored, dump_redacted(config).encode())
        write_card(config.out)
    if n_pending and prepared.calibration is not None:
        storage.write_atomic(storage.join(config.out, FILE), prepared.calibration)
    if n_pending:
        storage.delete(storage.join(config.out, "run.json"))
    return total, n_pending


def _done(store: LabelStore, changed: set[str]) -> set[str]:
    """Ids with a row.

    A part with an image whose file has changed is deleted whole: rewriting it without that image could be
    interrupted, labelling its images again is safe.
    """
    stale = {part for image_id, _, part in store.statuses() if image_id in changed} if changed else set()
    for part in sorted(stale):
        store.discard(part)
    if stale:
        _log.info("%d images have changed; %d parts are written again", len(changed), len(stale))
    return {image_id for image_id, _, _ in store.statuses()}


def _warn_of_unknown_names(config: AnnotateConfig, space: LabelSpace) -> None:
    """The built-in models label anything with any names; nothing else shows that the labels mean nothing."""
    builtin = config.annotator == SAM_CLIP and "builtin" in (config.sam.model, config.clip.model)
    known = {name_key(name) for name in label_space("picture_book").classes}
    unknown = {name_key(name) for name in space.classes[1:]} - known
    if builtin and unknown:
        echo(
            "note: the built-in models know the picture book and nothing else: labels of other images mean "
            "nothing; sam.model=vit_b clip.model=ViT-B-16-quickgelu clip.weights=openai are real ones",
            err=True,
        )


def _report_bad_images(result: LabelSetResult) -> None:
    bad = result.error + result.skipped
    for image_id, status, reason in result.bad:
        echo(f"  {status:<8}{visible(image_id)}: {visible(reason)}", err=True)
    if bad > len(result.bad):
        echo(f"  ... and {bad - len(result.bad)} more bad images", err=True)
    sys.stdout.flush()


def check_bad_images(config: AnnotateConfig, result: LabelSetResult) -> None:
    """Refuse a result with too many bad images.

    Raises:
        UserError: no image could be labelled, or more are bad than `max_bad` allows (3).
    """
    bad, total = result.error + result.skipped, result.images
    if bad == total:
        raise UserError(f"not one of {total} images could be labelled", exit_code=3)
    if config.max_bad is not None and bad > config.max_bad * total:
        limit = f"max_bad={config.max_bad:g} allows fewer"
        raise UserError(f"{bad} of {total} images are bad, {limit}", exit_code=3)
