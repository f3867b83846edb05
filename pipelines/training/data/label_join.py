"""Match the rows of a label set with the images of a data set, and check the label set."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from segray.models.label_space import IGNORE_INDEX
from segray.pipelines.config.commands.train import DataConfig
from segray.pipelines.engine.provenance import fingerprint
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.names import Names
from segray.pipelines.io.sources import image_roots, sources_of
from segray.pipelines.io.uris import parent
from segray.pipelines.label_set.part_files import damage
from segray.pipelines.label_set.store import LABELS, DamagedPartError, LabelStore
from segray.pipelines.training.data.class_names import class_id_table
from segray.pipelines.training.data.label_match import match_by_content, match_by_name
from segray.pipelines.training.data.mask_checks import sample_shape
from segray.pipelines.training.data.places import data_tree
from segray.pipelines.training.data.samples import Sample

Folder = tuple[int, str]
"""A folder relative to the data set's root: levels above it, or the path below it."""

_log = logging.getLogger(__name__)
_COMPARED = 64
"""Images, evenly spaced, whose sizes are compared with their labels'."""
_READERS = 4


@dataclass(frozen=True)
class LabelSet:
    """A label set that was checked.

    Attributes:
        root: its folder or URI.
        ok: ids of the images that have a label.
        bad: ids of the images that could not be read, and have no label.
        fingerprint: of the settings that made the labels, without places and versions.
    """

    root: str
    ok: frozenset[str]
    bad: frozenset[str]
    fingerprint: str = ""


def open_label_set(root: str, classes: Sequence[str]) -> LabelSet:
    """Check a label set before training reads it.

    Raises:
        UserError: there is none, or it has other classes than the data set.
        DamagedPartError: a part is damaged or missing; the message names it.
    """
    store = LabelStore(root)
    if not store.parts():
        where = storage.display(root)
        raise UserError(f"data.labels={where}: no label set here; `segray annotate out={where}` makes one")
    provenance = store.provenance
    ignore = int(provenance.get("ignore_index", IGNORE_INDEX))
    class_id_table(provenance["classes"], classes, ignore, storage.display(root))
    _check_parts(store)
    listed = list_images(store)
    _check_complete(store, len(listed.ok) + len(listed.bad))
    return replace(listed, fingerprint=fingerprint(provenance))


def list_images(store: LabelStore) -> LabelSet:
    """The images of a label set that was checked before, without its fingerprint."""
    statuses = {image_id: status for image_id, status, _ in store.statuses()}
    ok = frozenset(image_id for image_id, status in statuses.items() if status == "ok")
    return LabelSet(store.root, ok, frozenset(statuses) - ok)


def _check_parts(store: LabelStore) -> None:
    """Compare each part with its checksum; pixels are not decoded."""

    def reason(part: str) -> str | None:
        return damage(storage.read_bytes(storage.join(store.root, LABELS, part)))

    parts = store.parts()
    with ThreadPoolExecutor(_READERS) as pool:
        for part, problem in zip(parts, pool.map(reason, parts), strict=True):
            if problem:
                raise _damaged(store, f"{LABELS}/{part} is damaged ({problem})")


def _check_complete(store: LabelStore, rows: int) -> None:
    run = store.run()
    finished = sum(run["rows"].values()) if run and "rows" in run else 0
    if rows < finished:
        missing = ", ".join(f"{LABELS}/{name}" for name in store.orphans()[:3]) or "a part"
        raise _damaged(store, f"{missing} is missing: {rows} of {finished} rows are there")


def _damaged(store: LabelStore, what: str) -> DamagedPartError:
    root = storage.display(store.root)
    return DamagedPartError(f"data.labels={root}: {what}; run: segray verify out={root} repair=true")


def join_parts(
    config: DataConfig, unlabelled: Sequence[Sample], validation: Sequence[Sample], labels: LabelSet
) -> tuple[list[Sample], list[Sample]]:
    """Unlabelled and validation images with the image_id that each has in the label set.

    With `data.match=id`, unlabelled images of their own source are matched by their ids there. Those of the
    validation images count from another folder, so that they are matched by content.

    Raises:
        UserError: as `join_labels` and `match_by_name`; or no image has a row.
    """
    outside = any(sample.outside for sample in unlabelled)
    if config.match == "id" and outside:
        joined = join_labels(unlabelled, labels, _outside_root(str(config.unlabelled)))
        return joined, match_by_content(validation, labels.root)
    joined = _matched(config, [*unlabelled, *validation], labels, unlabelled or validation)
    if not any(sample.label_id for sample in joined):
        what = {"sha256": "content", "name": "file name"}[config.match]
        where = f"data.labels={storage.display(labels.root)}"
        raise UserError(f"{where}: none of {len(joined)} images has the {what} of one of its images")
    return joined[: len(unlabelled)], joined[len(unlabelled) :]


def join_labelled(
    config: DataConfig, labelled: Sequence[Sample], others: Sequence[Sample], labels: LabelSet
) -> list[Sample]:
    """Labelled images with the image_id that each has in the label set, "" without one.

    Args:
        config: how images are matched.
        labelled: the images.
        others: unlabelled ones, which determine the folder with `data.match=id`.
        labels: the label set.

    Raises:
        UserError: as `join_labels` and `match_by_name`.
    """
    if config.match != "id":
        return _matched(config, labelled, labels, labelled)
    if any(sample.outside for sample in others):
        return match_by_content(labelled, labels.root)
    counted = others or labelled
    return _matched(config, [*counted, *labelled], labels, counted)[len(counted) :]


def _matched(
    config: DataConfig, samples: Sequence[Sample], labels: LabelSet, counted: Sequence[Sample]
) -> list[Sample]:
    """The samples as `data.match` says; `counted`: see `join_labels`."""
    if config.match == "id":
        return join_labels(samples, labels, data_tree(config).place, counted=counted)
    if config.match == "sha256":
        return match_by_content(samples, labels.root)
    return match_by_name(samples, labels.root, labels.ok | labels.bad)


def _outside_root(source: str) -> str:
    """The folder that the ids of unlabelled images count from; of several sources, that of the first."""
    root = image_roots(sources_of(source)[0])[0]
    return parent(root) if storage.is_local(root) and storage.local_path(root).is_file() else root


def join_lines(
    config: DataConfig, unlabelled: Sequence[Sample], validation: Sequence[Sample]
) -> tuple[str, ...]:
    """How many images have a row in the label set, and how they were matched."""
    outside = any(sample.outside for sample in unlabelled)
    how = {"unlabelled": config.match, "validation": "sha256" if outside else config.match}
    parts = {"unlabelled": unlabelled, "validation": validation}
    texts = [
        f"{sum(bool(sample.label_id) for sample in samples)} of {len(samples)} {name} images by {how[name]}"
        for name, samples in parts.items()
        if samples
    ]
    return (f"{', '.join(texts)}, from {storage.display(str(config.labels))}",)


def join_labels(
    samples: Sequence[Sample], labels: LabelSet, root: str, counted: Sequence[Sample] | None = None
) -> list[Sample]:
    """The samples with the image_id that each has in the label set.

    A label set's ids are paths under the one folder that was annotated. That folder, at, above or below the
    data set's root, is the one with which most of `counted` have a row. So a label set of ROOT/images fits as
    well as one of ROOT/images/train; with the latter, images/val has no labels.

    Args:
        samples: the images to match.
        labels: the label set.
        root: the data set's folder or URI.
        counted: the images that determine the folder, those to train on; None: `samples`.

    Raises:
        UserError: no image of `counted` has a row, or two folders fit equally well.
    """
    known = Names(labels.ok | labels.bad)
    counts: Counter[Folder] = Counter()
    for sample in samples if counted is None else counted:
        counts.update(
            folder for folder, label_id in _label_ids(sample.image_id, root) if known.find(label_id)
        )
    folder = _best_folder(counts, labels, root)
    return [_joined(sample, folder, root, known) for sample in samples]


def _joined(sample: Sample, annotated: Folder, root: str, known: Names) -> Sample:
    candidates = _label_ids(sample.image_id, root)
    matches = (known.find(label_id) for folder, label_id in candidates if folder == annotated)
    return replace(sample, label_id=next(filter(None, matches), ""))


def _best_folder(counts: Counter[Folder], labels: LabelSet, root: str) -> Folder:
    first, second = [*counts.most_common(2), ((0, ""), 0), ((0, ""), 0)][:2]
    where = f"data.labels={storage.display(labels.root)}"
    if not first[1]:
        example = min(labels.ok | labels.bad, default="none")
        raise UserError(
            f"{where}: none of its images (such as {example}) is a training image of "
            f"{storage.display(root)}; its ids must be paths of the same images, or set data.match=sha256 "
            "(by content) or data.match=name (by file name)"
        )
    if first[1] == second[1]:
        raise UserError(
            f"{where}: its ids fit images under {_folder_path(first[0], root)} as well as under "
            f"{_folder_path(second[0], root)}; "
            f"annotate {storage.display(root)} as a whole, so that ids differ, or set data.match=sha256"
        )
    return first[0]


def _label_ids(image_id: str, root: str) -> Iterator[tuple[Folder, str]]:
    """The image's id in the label set for each folder that may have been annotated."""
    parts = image_id.split("/")
    for depth in range(len(parts)):
        yield (0, "/".join(parts[:depth])), "/".join(parts[depth:])
    above = _above(root)
    for levels in range(1, len(above) + 1):
        yield (levels, ""), "/".join([*above[-levels:], image_id])


def _above(root: str) -> Sequence[str]:
    """Names of the folders on the path to the root."""
    if storage.is_local(root):
        return storage.local_path(root).parts[1:]
    return [part for part in root.partition("://")[2].partition("?")[0].split("/") if part]


def _folder_path(folder: Folder, root: str) -> str:
    levels, below = folder
    if below:
        return f"{storage.display(root)}/{below}"
    above = _above(root)
    return storage.display(root) if not levels else "/" + "/".join(above[: len(above) - levels])


def check_sizes(samples: Sequence[Sample], labels: LabelSet) -> None:
    """Compare the sizes of some images with those of their labels, before a worker meets one that differs.

    Raises:
        UserError: an image has another size than its label.
    """
    joined = [sample for sample in samples if sample.label_id in labels.ok]
    chosen = {str(s.label_id): s for s in joined[:: max(1, len(joined) // _COMPARED)]}
    for row in LabelStore(labels.root).rows(["image_id", "status", "height", "width"]):
        sample = chosen.get(row["image_id"]) if row["status"] == "ok" else None
        if sample is None:
            continue
        with suppress(ImageProblem):
            height, width = sample_shape(sample)
            if (height, width) != (row["height"], row["width"]):
                raise UserError(
                    f"data.labels={storage.display(labels.root)}: the label of {sample.label_id} is "
                    f"{row['width']}x{row['height']} pixels, the image {sample.image} {width}x{height}; "
                    "annotate it again"
                )


def readable(samples: Sequence[Sample], labels: LabelSet) -> tuple[Sample, ...]:
    """The samples that annotation could read; a warning counts the others, and those without a row."""
    good = tuple(sample for sample in samples if sample.label_id not in labels.bad)
    bad = len(samples) - len(good)
    missing = sum(not sample.label_id for sample in good)
    where = storage.display(labels.root)
    if bad:
        _log.warning("%d unlabelled images are skipped: unreadable according to %s", bad, where)
    if missing:
        total = len(good)
        _log.warning("%d of %d unlabelled images have no zero-shot label in %s", missing, total, where)
    return good
