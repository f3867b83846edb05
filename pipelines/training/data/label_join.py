"""Which row of a label set belongs to which image of a data set, and whether the label set is fit to use."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from segray.models.label_space import IGNORE_INDEX
from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.label_set.part_files import damage
from segray.pipelines.label_set.store import LABELS, DamagedPartError, LabelStore
from segray.pipelines.training.data.class_names import translation
from segray.pipelines.training.data.samples import Item

_log = logging.getLogger(__name__)
_READERS = 4


@dataclass(frozen=True)
class LabelSet:
    """A label set that was checked.

    Attributes:
        root: its folder or URI.
        ok: ids of the images that have a label.
        bad: ids of those that have none, as they cannot be read.
    """

    root: str
    ok: frozenset[str]
    bad: frozenset[str]


def open_label_set(root: str, classes: Sequence[str]) -> LabelSet:
    """Check a label set before training reads it.

    Raises:
        UserError: there is none, or its classes are not the data's.
        DamagedPartError: a part is damaged or gone; the message names it.
    """
    store = LabelStore(root)
    if not store.parts():
        where = storage.display(root)
        raise UserError(f"data.labels={where}: no label set here; `segray annotate out={where}` makes one")
    provenance = store.provenance
    ignore = int(provenance.get("ignore_index", IGNORE_INDEX))
    translation(provenance["classes"], classes, ignore, storage.display(root))
    _check_parts(store)
    status = {image_id: state for image_id, state, _ in store.statuses()}
    _check_complete(store, len(status))
    ok = frozenset(image_id for image_id, state in status.items() if state == "ok")
    return LabelSet(root, ok, frozenset(status) - ok)


def _check_parts(store: LabelStore) -> None:
    """Compare each part with its checksum; pixels are not decoded."""

    def reason(part: str) -> str | None:
        return damage(storage.read_bytes(storage.join(store.root, LABELS, part)))

    parts = store.parts()
    with ThreadPoolExecutor(_READERS) as pool:
        for part, why in zip(parts, pool.map(reason, parts), strict=True):
            if why:
                raise _damaged(store, f"{LABELS}/{part} is damaged ({why})")


def _check_complete(store: LabelStore, rows: int) -> None:
    run = store.run()
    finished = sum(run["rows"].values()) if run and "rows" in run else 0
    if rows < finished:
        gone = ", ".join(f"{LABELS}/{name}" for name in store.orphans()[:3]) or "a part"
        raise _damaged(store, f"{gone} is missing: {rows} of {finished} rows are there")


def _damaged(store: LabelStore, what: str) -> DamagedPartError:
    root = storage.display(store.root)
    return DamagedPartError(f"data.labels={root}: {what}; run: segray verify out={root} repair=true")


def join_labels(
    items: Sequence[Item], labels: LabelSet, root: str, key: Sequence[Item] | None = None
) -> list[Item]:
    """The items with the image_id that each has in the label set.

    A label set's ids are paths under the one folder that was annotated. That folder is found by counting: it
    is the one, at, above or below the data set's root, under which the most of `key` have a row. So a label
    set of ROOT/images fits as well as one of ROOT/images/train; with the latter, images/val has no labels.

    Args:
        items: what to join.
        labels: the label set.
        root: the data set's folder or URI.
        key: the images that tell the folder, those to train on; None: `items`.

    Raises:
        UserError: no image of `key` has a row, or two folders fit equally well.
    """
    known = labels.ok | labels.bad
    counts: Counter[tuple[int, str]] = Counter()
    for item in items if key is None else key:
        counts.update(place for place, label_id in _readings(item.image_id, root) if label_id in known)
    place = _only(counts, labels, root)
    return [_joined(item, place, root, known) for item in items]


def _joined(item: Item, place: tuple[int, str], root: str, known: Collection[str]) -> Item:
    found = [
        label_id for own, label_id in _readings(item.image_id, root) if own == place and label_id in known
    ]
    return replace(item, label_id=found[0]) if found else item


def _only(counts: Counter[tuple[int, str]], labels: LabelSet, root: str) -> tuple[int, str]:
    first, second = [*counts.most_common(2), ((0, ""), 0), ((0, ""), 0)][:2]
    where = f"data.labels={storage.display(labels.root)}"
    if not first[1]:
        some = min(labels.ok | labels.bad, default="none")
        raise UserError(
            f"{where}: none of its images (such as {some}) is a training image of {storage.display(root)}; "
            "its ids must be paths of the same images"
        )
    if first[1] == second[1]:
        raise UserError(
            f"{where}: its ids fit images under {_folder(first[0], root)} as well as under "
            f"{_folder(second[0], root)}; annotate {storage.display(root)} as a whole, so that ids differ"
        )
    return first[0]


def _readings(image_id: str, root: str) -> Iterator[tuple[tuple[int, str], str]]:
    """Each folder that may have been annotated, as (levels above, folder below the root), with the id."""
    parts = image_id.split("/")
    for depth in range(len(parts)):
        yield (0, "/".join(parts[:depth])), "/".join(parts[depth:])
    above = _above(root)
    for levels in range(1, len(above) + 1):
        yield (levels, ""), "/".join([*above[-levels:], image_id])


def _above(root: str) -> Sequence[str]:
    """Names of the folders that lead to the root."""
    if storage.is_local(root):
        return storage.local_path(root).parts[1:]
    return [part for part in root.partition("://")[2].partition("?")[0].split("/") if part]


def _folder(place: tuple[int, str], root: str) -> str:
    levels, below = place
    if below:
        return f"{storage.display(root)}/{below}"
    above = _above(root)
    return storage.display(root) if not levels else "/" + "/".join(above[: len(above) - levels])


def readable(items: Sequence[Item], labels: LabelSet) -> tuple[Item, ...]:
    """The items but those that the label set says cannot be read; the log counts them, and who has no row."""
    good = tuple(item for item in items if (item.label_id or "") not in labels.bad)
    bad = len(items) - len(good)
    missing = sum(item.label_id is None for item in good)
    where = storage.display(labels.root)
    if bad:
        _log.warning("%d unlabelled images are left out: by %s they cannot be read", bad, where)
    if missing:
        total = len(good)
        _log.warning("%d of %d unlabelled images have no zero-shot label in %s", missing, total, where)
    return good
