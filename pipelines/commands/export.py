"""`segray export`: a label set as the files of another tool, or a trained network as one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from segray.models.label_space import ignore_index_of, is_wide
from segray.pipelines.config.commands.export import ExportConfig
from segray.pipelines.config.loading import identity
from segray.pipelines.config.paths import absolute
from segray.pipelines.config.previous import current_provenance
from segray.pipelines.corrections.identity import set_id
from segray.pipelines.corrections.store import CorrectedStore
from segray.pipelines.engine import cluster
from segray.pipelines.errors import UserError
from segray.pipelines.exporting.base import SPLITS, Format, Target
from segray.pipelines.exporting.checkpoints import export as checkpoints
from segray.pipelines.exporting.checkpoints.export import CheckpointResult
from segray.pipelines.exporting.classes import ClassMap, class_map
from segray.pipelines.exporting.hub import hub_repo
from segray.pipelines.exporting.images import ImageFiles, check_mode
from segray.pipelines.exporting.journal import Bad, Journal, check_out, drop_temporary, write_record
from segray.pipelines.exporting.plan import Plan, check_clashes, make_plan, val_identity
from segray.pipelines.exporting.registry import FORMATS
from segray.pipelines.exporting.run import is_cluster_requested, write_parts
from segray.pipelines.exporting.writer import Writer
from segray.pipelines.io import run_lock, storage
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.printing import echo, visible
from segray.pipelines.reporting.label_set.samples import Photos
from segray.pipelines.reporting.label_set.summary import read_uris
from segray.pipelines.understood import classes_line, line, show

_SHOWN = 20
_FACTS = (("sam", "model"), ("clip", "model"), ("labeller", "model"), ("config", "label.threshold"))


@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote; as text, the summary that the command prints.

    Attributes:
        out: folder or URI of the export.
        images: exported images by split.
        not_ok: images of the label set without a label, by status.
        bad: image_id, status and reason of labelled images that were left out.
        classes: names of the ids.
        class_pixels: exported pixels of each class.
        ignored: exported pixels that are ignored.
        losses: what the format does not hold, a line each.
        hub: address of the repository that it was pushed to.
    """

    out: str
    images: dict[str, int]
    not_ok: dict[str, int]
    bad: tuple[Bad, ...]
    classes: tuple[str, ...]
    class_pixels: tuple[int, ...]
    ignored: int
    losses: tuple[str, ...]
    hub: str | None = None

    def __str__(self) -> str:
        return "\n".join(_summary(self))


def run(config: ExportConfig) -> None:
    """Export and print a summary.

    Raises:
        UserError: as `execute` and `check_bad_images` raise.
    """
    result = execute(config)
    echo(result)
    if isinstance(result, CheckpointResult):
        return
    for image_id, status, reason in result.bad[:_SHOWN]:
        echo(f"  {status:<8}{visible(image_id)}: {visible(reason)}", err=True)
    if len(result.bad) > _SHOWN:
        echo(f"  ... and {len(result.bad) - _SHOWN} more images that were left out", err=True)
    check_bad_images(result)


def check_bad_images(result: ExportResult) -> None:
    """Refuse an export without an image.

    Raises:
        UserError: all images were left out (3).
    """
    if not sum(result.images.values()):
        reason = visible(result.bad[0][2])
        raise UserError(f"not one of {len(result.bad)} images could be exported: {reason}", exit_code=3)


def execute(config: ExportConfig) -> ExportResult | CheckpointResult:
    """Export the labels or the checkpoint.

    Raises:
        UserError: as `export_labels` and `checkpoints.execute` raise.
    """
    return export_labels(config) if config.checkpoint is None else checkpoints.execute(config)


def export_labels(config: ExportConfig, only: frozenset[str] | None = None) -> ExportResult:
    """Export what is missing in `out`; parts with images that were left out are tried again.

    Args:
        config: of the export.
        only: ids of the images to export; None: all.

    Raises:
        UserError: bad input, an `out` of something else, or no cluster (2), a damaged label set or a full
            disk (1), or an output in use (4).
    """
    if is_cluster_requested(config):
        cluster.check_start(config.address)
    labels = str(config.labels)
    source = CorrectedStore(labels)
    provenance = current_provenance(source.provenance)
    classes = class_map(provenance, config.classes)
    check_mode(config.images, config.out, in_shards=FORMATS[config.format].in_shards)
    plan = make_plan(source, config.val, config.seed, only)
    target = Target(
        classes.names,
        classes.palette,
        config.images != "none",
        plan.counts,
        _facts(provenance),
        set_id(source),
    )
    form = FORMATS[config.format](target)
    _check_ids(config.format, form)
    check_clashes(form, plan, target.images)
    record = _made_with(config, source, only)
    _check_local(config)
    repo = hub_repo(config)
    resumed = check_out(config.out, labels, record)
    show([classes_line(classes.names)])
    with RunLock(config.out) as lock:
        if resumed:
            drop_temporary(config.out)
        write_record(config.out, record, None)
        journal = Journal(config.out, plan.parts, lock.token)
        write_parts(config, _writer(config, source, form, plan, classes), journal, lock.token)
        with run_lock.owned(config.out, lock.token):
            for path, chunks in form.finish(journal.entries):
                storage.write_chunks(storage.join(config.out, *path.split("/")), chunks)
        result = _result(config, plan, form, journal)
        write_record(config.out, record, _stored(result))
        if not result.bad:
            journal.close()
    if repo is None:
        return result
    check_bad_images(result)
    return replace(result, hub=repo.push_folder(storage.local_path(config.out)))


def _check_local(config: ExportConfig) -> None:
    if config.push_to_hub and not storage.is_local(config.out):
        raise UserError(f"push_to_hub: out={storage.display(config.out)} is not a folder on this machine")


def _check_ids(name: str, form: Format) -> None:
    n = len(form.target.classes)
    if is_wide(n) and not form.wide:
        raise UserError(f"format: {n - 1} classes need ids of 16 bits; {name} has 8: merge classes, or png")


def _facts(provenance: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    sections = ((a, b, provenance.get(a)) for a, b in _FACTS)
    values = ((f"{a}.{b}", section.get(b)) for a, b, section in sections if isinstance(section, Mapping))
    return tuple((name, str(value)) for name, value in values if value is not None)


def _made_with(config: ExportConfig, source: LabelStore, only: frozenset[str] | None) -> dict[str, object]:
    """What must be the same in all runs into one folder; the places of label set and list need not."""
    chosen = {} if only is None else {"only": sorted(only)}
    return {**identity(config), **chosen, "val": val_identity(config.val), "labels": source.fingerprint()}


def _writer(
    config: ExportConfig, source: CorrectedStore, form: Format, plan: Plan, classes: ClassMap
) -> Writer:
    # Workers may have another working directory.
    here = absolute(config)
    # With the corrections that the plan and the record are of, whatever is corrected meanwhile.
    labels = CorrectedStore(str(here.labels), source.corrections)
    uris = {} if config.images == "none" else read_uris(labels.root, plan.ids)
    images = ImageFiles(Photos(labels.root, uris, here.image.roots), config.images, here.out)
    visible_parts = form.has_objects and config.instances == "segments"
    return Writer(labels, here.out, form, plan, classes, config.min_confidence, visible_parts, images)


def _result(config: ExportConfig, plan: Plan, form: Format, journal: Journal) -> ExportResult:
    ignore = form.target.ignore_index
    pixels, lost = np.zeros(ignore + 1, np.int64), 0
    images = dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        for entry in journal.entries(split):
            images[split] += 1
            pixels[entry["class_ids"]] += entry["class_pixels"]
            lost += entry["lost"]
    return ExportResult(
        out=config.out,
        images=images,
        not_ok={status: n for status, n in plan.statuses.items() if status != "ok"},
        bad=tuple(sorted(journal.bad())),
        classes=form.target.classes,
        class_pixels=tuple(pixels[: len(form.target.classes)].tolist()),
        ignored=int(pixels[ignore]),
        losses=tuple(form.losses(int(pixels[ignore]), lost)),
    )


def _stored(result: ExportResult) -> dict[str, object]:
    """The result for export.json: an export that is made again elsewhere has the same bytes."""
    return {
        "classes": result.classes,
        "images": result.images,
        "not_ok": result.not_ok,
        "left_out": len(result.bad),
        "losses": result.losses,
    }


def _summary(result: ExportResult) -> Iterator[str]:
    states = Counter(result.not_ok)
    exported = sum(result.images.values())
    total = exported + len(result.bad) + states.total()
    splits = ", ".join(f"{n} {split}" for split, n in result.images.items())
    bad = ", ".join(f"{states[name]} {name}" for name in ("error", "skipped"))
    yield line("images", f"{total}: {exported} exported ({splits}), {len(result.bad)} left out, {bad}")
    yield from _table(result)
    yield from (line("not kept", text) for text in result.losses)
    if result.hub is not None:
        yield line("pushed to", result.hub)
    yield line("wrote", storage.display(result.out))


def _table(result: ExportResult) -> Iterator[str]:
    total = max(1, sum(result.class_pixels) + result.ignored)
    width = max(5, *(len(name) for name in result.classes))
    yield f"\n id  {'class':<{width}}  pixels %"
    for i, (name, pixels) in enumerate(zip(result.classes, result.class_pixels, strict=True)):
        yield f"{i:3}  {name:<{width}}  {100 * pixels / total:8.2f}"
    ignore = ignore_index_of(len(result.classes))
    yield f"{ignore:3}  {'ignored':<{width}}  {100 * result.ignored / total:8.2f}\n"
