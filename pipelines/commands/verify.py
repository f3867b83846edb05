"""`segray verify`: check a label set against what segray promises, and repair it on request."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from segray.pipelines.config.commands.annotate import AnnotateConfig
from segray.pipelines.config.commands.calibrate import CalibrateConfig
from segray.pipelines.config.commands.relabel import RelabelConfig
from segray.pipelines.config.commands.verify import VerifyConfig
from segray.pipelines.config.received import load_received, shown_keys
from segray.pipelines.config.schema import keys
from segray.pipelines.config.source import parse_yaml
from segray.pipelines.corrections import CorrectedStore, CorrectionLog
from segray.pipelines.engine.provenance import settings
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.manifest import MANIFEST, read_ids
from segray.pipelines.io.run_lock import RunLock
from segray.pipelines.io.sources import list_images, sources_of
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.label_set.verification import PartCheck, Problem, check_part
from segray.pipelines.printing import echo, visible
from segray.pipelines.understood import PixelCounts, name_some

__all__ = ["Problem", "VerifyReport", "damaged_parts", "lost_images", "repair", "run", "verify"]

TOO_MANY_BAD = 3
"""Exit status of an annotation that is complete, but with too many bad rows: no concern of verify."""
_SHOWN = 20

_MadeWith = AnnotateConfig | RelabelConfig | CalibrateConfig
"""The configuration of a command that makes a label set."""


@dataclass(frozen=True)
class VerifyReport:
    """The result of `verify`.

    Attributes:
        n_images: rows that could be read.
        n_ok: of these, with a label.
        n_error: of these, with an error.
        n_skipped: of these, skipped.
        problems: every fault, in the order of the parts.
        classes: the names of the ids in the labels.
        pixels: of each class in the labels that could be read, and those without an answer.
    """

    n_images: int
    n_ok: int
    n_error: int
    n_skipped: int
    problems: list[Problem] = field(default_factory=list)
    classes: tuple[str, ...] = field(default=(), compare=False)
    pixels: PixelCounts = field(default_factory=lambda: PixelCounts(0, (), 0), compare=False)

    @property
    def ok(self) -> bool:
        """Whether every promise holds."""
        return not self.problems


def verify(root: str, expected: Iterable[str] | None = None) -> VerifyReport:
    """Check every byte, row and segment of a label set, and that each expected image is there once.

    Args:
        root: folder or object store prefix of the label set.
        expected: ids of all its images; None takes them from `root/manifest.parquet`.

    Raises:
        UserError: there is no label set at `root`.
    """
    store = LabelStore(root)
    parts, orphans = store.parts(), store.orphans()
    if not parts and not orphans and not storage.exists(storage.join(root, MANIFEST)):
        raise UserError(f"{storage.display(root)}: no label set here (no labels/part-*.parquet)")
    # Decoding, checksums and decompression release the GIL; one part a thread bounds the memory.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        checks = list(pool.map(lambda part: check_part(root, part), parts))
    problems = [problem for check in checks for problem in check.problems]
    problems += [
        Problem(name, None, "labels file is missing, its segments file is there") for name in orphans
    ]
    problems += _other_provenance(checks) + _duplicates(checks)
    problems += _against_manifest(root, checks, expected)
    problems += [] if problems else _of_corrections(root)
    states = Counter(status for check in checks for _, status in check.rows)
    classes, pixels = _pixels(checks)
    return VerifyReport(
        states.total(), states["ok"], states["error"], states["skipped"], problems, classes, pixels
    )


def _pixels(checks: list[PartCheck]) -> tuple[tuple[str, ...], PixelCounts]:
    """The classes of the parts and the pixels of each."""
    whole = next((check for check in checks if check.classes), PartCheck(""))
    counts = [check.pixels for check in checks if check.classes == whole.classes]
    return whole.classes, PixelCounts.of(counts, len(whole.classes), whole.ignore_index)


def _of_corrections(root: str) -> list[Problem]:
    """Parts of the log that cannot be read, else corrections that do not fit their images."""
    log = CorrectionLog(root)
    if parts := log.problems():
        return [Problem("", None, what) for what in parts.values()]
    return [Problem("", image_id, what) for image_id, what in CorrectedStore(root).problems().items()]


def damaged_parts(report: VerifyReport) -> list[str]:
    """Names of the parts whose images must be labelled again."""
    return sorted({problem.part for problem in report.problems if problem.part})


def repair(report: VerifyReport, store: LabelStore) -> list[str]:
    """Set damaged parts aside and remove what killed writers left; the caller must hold the run lock.

    Returns:
        As `lost_images`.
    """
    lost = lost_images(report, store)
    store.set_aside(damaged_parts(report))
    store.drop_orphans()
    return lost


def lost_images(report: VerifyReport, store: LabelStore) -> list[str]:
    """Ids of the images that have no row outside of the damaged parts, sorted.

    Raises:
        UserError: there are damaged parts, and no manifest that tells which images they held.
    """
    damaged = set(damaged_parts(report))
    left = {image_id for image_id, _, _ in store.statuses(sorted(set(store.parts()) - damaged))}
    reported = {problem.image_id for problem in report.problems if problem.image_id}
    try:
        wanted = set(read_ids(storage.join(store.root, MANIFEST)))
    except UserError as error:
        if damaged:
            what = f"{len(damaged)} damaged parts of {storage.display(store.root)} are kept"
            why = "only the manifest tells which images they held"
            raise UserError(f"{what}: {why}, and {error}", exit_code=1) from error
        wanted = reported
    return sorted(wanted - left)


def run(config: VerifyConfig) -> None:
    """Print the problems, and repair them if `repair=true`: only the lost images are labelled again.

    Raises:
        UserError: exit code 1, the label set has problems, or could not be repaired.
    """
    report = verify(config.out)
    _show(report)
    if report.ok:
        return
    out = storage.display(config.out)
    if not config.repair:
        command = f"segray verify out={out} repair=true"
        raise UserError(f"{out} has {len(report.problems)} problems; repair it with: {command}", exit_code=1)
    report = _repaired(config)
    _show(report)
    if not report.ok:
        n = len(report.problems)
        raise UserError(f"{out} has {n} problems that labelling images again does not repair", exit_code=1)


def _repaired(config: VerifyConfig) -> VerifyReport:
    """Label lost images again; the damaged parts are removed once their images have new rows."""
    store = LabelStore(config.out)
    with RunLock(config.out):
        # What the first check saw may have been another run's work in progress.
        report = verify(config.out)
        lost, damaged = lost_images(report, store), damaged_parts(report)
        plan = _plan(config, len(lost)) if lost else None
        repair(report, store)
    if plan is not None:
        _label_again(plan, store, damaged, len(lost))
    store.drop_aside()
    return verify(config.out)


def _label_again(plan: _MadeWith, store: LabelStore, damaged: list[str], n_images: int) -> None:
    """Run the command that made the label set again; it labels the images that have no row now."""
    # Imported here, as they are far heavier than checking.
    from segray.pipelines.commands import annotate, calibrate, relabel

    echo(f"labelling {n_images} images again", err=True)
    kept = store.parts()
    try:
        if isinstance(plan, AnnotateConfig):
            annotate.run(plan)
        elif isinstance(plan, CalibrateConfig):
            calibrate.run(plan)
        else:
            relabel.run(plan)
    except BaseException as error:
        if isinstance(error, UserError) and error.exit_code == TOO_MANY_BAD:
            return
        if store.parts() == kept:
            store.put_back(damaged)
        if isinstance(error, UserError):
            raise _not_repaired(store.root, n_images, error) from error
        raise


def _not_repaired(root: str, n_images: int, error: UserError) -> UserError:
    what = f"{n_images} images of {storage.display(root)} cannot be labelled again, damaged parts are kept"
    return UserError(f"{what}: {error}", exit_code=1)


def _plan(config: VerifyConfig, n_images: int) -> _MadeWith:
    """What made the label set, as far as a label set may decide it, with the user's keys; shown on stderr."""
    try:
        plan = _made_with(config)
        if isinstance(plan, AnnotateConfig):
            next(
                list_images(
                    plan.images,
                    plan.image.roots,
                    follow=plan.image.follow_links,
                    column=plan.image.column,
                ),
                None,
            )
    except UserError as error:
        raise _not_repaired(config.out, n_images, error) from error
    echo(f"as {storage.display(config.out)}/config.yaml says:", err=True)
    for line in shown_keys(plan):
        echo(f"  {visible(line)}", err=True)
    return plan


def _made_with(config: VerifyConfig) -> _MadeWith:
    """The configuration stored with a label set, with the label set's present place as its output."""
    stored = storage.join(config.out, "config.yaml")
    where = storage.display(stored)
    try:
        tree = parse_yaml(storage.read_bytes(stored), where)
    except OSError as error:
        raise UserError(f"cannot read {where}, which says how to label them") from error
    own = {"out": config.out, "clip.weights": config.clip.weights}
    model = _model(tree)
    if model is CalibrateConfig:
        own |= {"labels": config.labels, "masks": config.masks, "split": config.split}
        own["colors"] = config.colors
        return load_received(model, tree, own, where)
    classes = config.classes
    own["classes"] = classes if isinstance(classes, str) else ",".join(classes or ()) or None
    if model is RelabelConfig:
        return load_received(model, tree, {**own, "labels": config.labels}, where)
    images = config.images if config.images is None else ",".join(sources_of(config.images))
    own |= {"sam.weights": config.sam.weights, "labeller.weights": config.labeller.weights}
    own |= {"images": images, "address": config.address}
    if isinstance(taught := tree.get("calibrate"), Mapping) and taught.get("masks"):
        own |= {"calibrate.masks": config.masks, "calibrate.split": config.split}
        own["calibrate.colors"] = config.colors
    own["clip.proxy_weights"] = config.clip.proxy_weights
    # Links in a folder that the label set itself names are a stranger's.
    own["image.links"] = config.image.links if images else "refuse"
    own["image.roots"] = ",".join(config.image.roots) or None
    return load_received(AnnotateConfig, tree, own, where)


def _model(made_with: Container[str | None]) -> type[_MadeWith]:
    """The configuration that keys belong to."""
    if "labels" not in made_with:
        return AnnotateConfig
    return CalibrateConfig if "masks" in made_with else RelabelConfig


def _show(report: VerifyReport) -> None:
    lines = [("images", report.n_images), ("ok", report.n_ok), ("error", report.n_error)]
    for name, count in [*lines, ("skipped", report.n_skipped)]:
        echo(f"{name:<10}{count:>10}")
    if any(report.pixels.pixels):
        echo(f"{'ignored':<10}{report.pixels.ignored_share:>10.1%} of the pixels")
        if absent := report.pixels.absent_names(report.classes):
            echo(f"no pixel of: {name_some(absent)}")
    echo(f"{'problems':<10}{len(report.problems):>10}")
    for problem in report.problems[:_SHOWN]:
        echo(visible("  ".join(filter(None, [problem.part, problem.image_id, problem.what]))))
    if len(report.problems) > _SHOWN:
        echo(f"... and {len(report.problems) - _SHOWN} more")


def _other_provenance(checks: list[PartCheck]) -> list[Problem]:
    """Parts whose settings differ from those of most parts: a label set has one configuration."""
    settings = {check.part: _settings(check.provenance) for check in checks if check.provenance is not None}
    usual = Counter(settings.values()).most_common(1)[0][0] if settings else None
    odd = [part for part, value in settings.items() if value != usual]
    return [Problem(part, None, "made with other settings than the other parts") for part in odd]


def _settings(provenance: bytes) -> str:
    """What must be equal in all parts."""
    record = json.loads(provenance)
    model = _model(record.get("config") or {})
    return settings(record, {name: key.default for name, key in keys(model).items()})


def _duplicates(checks: list[PartCheck]) -> list[Problem]:
    """Images in several parts: each part but the first has the problem."""
    owner: dict[str, str] = {}
    problems = []
    for check in checks:
        for image_id, _ in check.rows:
            if image_id in owner:
                problems.append(Problem(check.part, image_id, f"listed twice, also in {owner[image_id]}"))
            owner.setdefault(image_id, check.part)
    return problems


def _against_manifest(root: str, checks: list[PartCheck], expected: Iterable[str] | None) -> list[Problem]:
    try:
        ids = list(read_ids(storage.join(root, MANIFEST)) if expected is None else expected)
    except UserError as error:
        absent = isinstance(error.__cause__, FileNotFoundError)
        why = "missing" if absent else f"unreadable ({error})"
        return [Problem("", None, f"{MANIFEST} is {why}: missing images cannot be detected")]
    wanted = set(ids)
    problems = [
        Problem("", name, "listed twice in the manifest") for name, n in Counter(ids).items() if n > 1
    ]
    rows = [(check.part, image_id) for check in checks for image_id, _ in check.rows]
    problems += [Problem(part, i, "not in the manifest") for part, i in rows if i not in wanted]
    missing = sorted(wanted - {image_id for _, image_id in rows})
    return problems + [
        Problem("", image_id, "missing: in the manifest, but in no readable part") for image_id in missing
    ]
