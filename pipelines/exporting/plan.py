"""Which image goes where, decided before anything is written: splits, and names that do not clash."""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain, pairwise

from segray.pipelines.errors import UserError
from segray.pipelines.exporting.base import TRAIN, VAL, Format
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import check_image_id
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.training.data.splits import read_names, read_text


@dataclass(frozen=True)
class Plan:
    """The images of a label set.

    Attributes:
        images: ids of the images with a label, by part; the parts are in the order of the export.
        ids: of all of them, sorted.
        statuses: rows by status.
        val: ids of the validation images.
    """

    images: Mapping[str, Sequence[str]]
    ids: tuple[str, ...]
    statuses: Mapping[str, int]
    val: frozenset[str]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts."""
        return tuple(self.images)

    @cached_property
    def wanted(self) -> frozenset[str]:
        """The ids, to look one up."""
        return frozenset(self.ids)

    def split(self, image_id: str) -> str:
        """The split of an image."""
        return VAL if image_id in self.val else TRAIN

    @staticmethod
    def of_splits(splits: Iterable[tuple[str, str]]) -> Plan:
        """The plan of some (image_id, split) alone, which knows no parts: for whoever writes them."""
        known = dict(splits)
        return Plan({}, tuple(known), {}, frozenset(i for i, split in known.items() if split == VAL))

    @property
    def counts(self) -> dict[str, int]:
        """Images of each split."""
        return {TRAIN: len(self.ids) - len(self.val), VAL: len(self.val)}


def make_plan(store: LabelStore, val: str | None, seed: int, only: Collection[str] | None = None) -> Plan:
    """Read ids and states of all rows, and choose the validation images.

    Args:
        store: the label set.
        val: as `ExportConfig.val`.
        seed: of the choice.
        only: ids of the images to take; None: all.

    Raises:
        UserError: no labelled image, an id that is no path below a folder or is there twice, or a bad `val`.
    """
    images: dict[str, list[str]] = {part: [] for part in store.parts()}
    statuses: Counter[str] = Counter()
    where = storage.display(store.root)
    for image_id, status, part in store.statuses(tuple(images)):
        check_image_id(image_id, where)
        statuses[status] += 1
        if status == "ok" and (only is None or image_id in only):
            images[part].append(image_id)
    ids = sorted(chain.from_iterable(images.values()))
    if not ids:
        raise UserError(f"labels={where}: no labelled image in {sum(statuses.values())} rows")
    twice = next((a for a, b in pairwise(ids) if a == b), None)
    if twice is not None:
        raise UserError(f"labels={where}: {twice} is there twice; see segray verify out={where}")
    return Plan(images, tuple(ids), statuses, frozenset(_validation(ids, val, seed)))


def val_identity(val: str | None) -> str | None:
    """What `val` stands for, wherever the file is: the share, or the SHA-256 of the list."""
    if val is None or _share(val) is not None:
        return val
    return hashlib.sha256(read_text(val, "val").encode()).hexdigest()


def check_clashes(form: Format, plan: Plan, images: bool) -> None:
    """Refuse two images with one name in the export, before the first file.

    Raises:
        UserError: names both images, and the file that both would have.
    """
    owners: dict[str, str] = {}
    for image_id in plan.ids:
        split = plan.split(image_id)
        image = form.image_path(image_id, split) if images and not form.in_shards else None
        for path in filter(None, (image, form.label_path(image_id, split))):
            if path in owners:
                raise UserError(_clash(owners[path], image_id, path))
            owners[path] = image_id
    for path, image_id in owners.items():
        folder = posixpath.dirname(path)
        while folder:
            if folder in owners:
                raise UserError(_clash(owners[folder], image_id, folder))
            folder = posixpath.dirname(folder)


def _clash(first: str, second: str, path: str) -> str:
    return f"{first} and {second} would both be {path}; give one of the images another name, or folder"


def _validation(ids: Sequence[str], val: str | None, seed: int) -> Collection[str]:
    if val is None:
        return ()
    share = _share(val)
    if share is None:
        return read_names(val, "val", frozenset(ids))
    if not 0 < share < 1:
        raise UserError(f"val: {val} is out of range (allowed: a share above 0 and below 1, or a file)")
    n = min(max(1, round(share * len(ids))), len(ids) - 1)
    # By a hash of each id: the others stay where they are when an image is added.
    return sorted(ids, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())[:n]


def _share(val: str) -> Fraction | None:
    try:
        return Fraction(val)
    except (ValueError, ZeroDivisionError):
        return None
