"""The log of corrections: Parquet parts beside the labels, each written once and never changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike, fspath

import pyarrow as pa
import pyarrow.compute as pc

from segray.pipelines.corrections.correction import (
    SCHEMA,
    Correction,
    Kind,
    by_image,
    from_row,
    new_key,
    this_user,
    to_table,
)
from segray.pipelines.errors import UserError
from segray.pipelines.io import exclusive, storage
from segray.pipelines.label_set.part_files import damage, encode_part
from segray.pipelines.label_set.part_reader import PartReader
from segray.pipelines.label_set.store import LabelStore
from segray.pipelines.printing import visible

CORRECTIONS = "corrections"
"""Folder of the log in a label set."""
MAX_PART_BYTES = 1 << 30
MAX_CORRECTIONS = 1 << 22
"""Of one label set."""

_PART = re.compile(r"part-[0-9]{8}T[0-9]{12}-[0-9a-f]{8}\.parquet")
_ROWS = 256
_READERS = 8
_TRIES = 5
_COLUMNS = ["image_id", "status", "sha256", "height", "width"]
_REFUSED = "not stored"


@dataclass(frozen=True)
class _Image:
    status: str
    digest: str | None
    size: tuple[int, int]


class CorrectionLog:
    """The corrections of a label set. Parts that were read are remembered: they never change.

    Args:
        labels: folder or URI of the label set.
    """

    def __init__(self, labels: str | PathLike[str]) -> None:
        self.root = fspath(labels)
        self._store = LabelStore(self.root)
        self._loaded: dict[str, tuple[Correction, ...]] = {}
        self._merged: dict[str, Correction] = {}
        """By key: a correction may be in several parts, see `compaction`."""
        self._known: dict[str, _Image] = {}
        self._index: pa.Table | None = None
        self._classes: frozenset[str] | None = None
        self._last = ""

    def make(
        self,
        image: str,
        kind: Kind,
        *,
        segments: Sequence[int] = (),
        class_name: str | None = None,
        mask: bytes | None = None,
        target: str | None = None,
        who: str | None = None,
    ) -> Correction:
        """A correction of a labelled image, for `append`; later than all that this object has seen.

        Args:
            image: its image_id.
            kind: as the other arguments, see `Correction`.
            segments: segment_ids.
            class_name: None: unknown.
            mask: run lengths.
            target: a key.
            who: None: the user of this process.

        Raises:
            UserError: the label set has no label of the image.
        """
        known = self._images({image}).get(image)
        if known is None or known.status != "ok":
            raise UserError(f"{_REFUSED}: {_name(image)} is no labelled image of the label set")
        self._last = new_key(max(self._last, target or ""))
        return Correction(
            key=self._last,
            image=image,
            image_digest=known.digest,
            size=known.size,
            kind=kind,
            segments=tuple(segments),
            class_name=class_name,
            mask=mask,
            who=who or this_user(),
            target=target,
        )

    def prepare(self) -> None:
        """Read what corrections are checked against, which the first one would wait for.

        Raises:
            UserError: a damaged part of the label set.
        """
        if self._index is None:
            self._index = self._store.columns(_COLUMNS)

    def append(self, corrections: Sequence[Correction]) -> None:
        """Write corrections as one new part: all of them, or none.

        No name is ever written twice, so two people at once lose nothing; a killed writer leaves nothing
        under a name.

        Raises:
            UserError: a correction that `read` would refuse or leave out, or that undoes none; nothing is
                written. Or the disk is full, or read-only.
        """
        if not corrections:
            return
        for one in corrections:
            try:
                one.check()
            except (ValueError, TypeError) as problem:
                raise UserError(f"{_REFUSED}: {problem}") from None
        self._check_known(corrections, _REFUSED)
        self._check_new(corrections)
        self.write_part(min(one.key for one in corrections), corrections)

    def write_part(self, key: str, corrections: Sequence[Correction]) -> None:
        """Write checked corrections as the part of a key.

        Raises:
            UserError: there is such a part, or it cannot be written.
        """
        uri = storage.join(self.root, CORRECTIONS, f"part-{key}.parquet")
        try:
            exclusive.create(uri, encode_corrections(corrections))
        except FileExistsError:
            raise UserError(f"{_REFUSED}: {storage.display(uri)} is there already; give new keys") from None

    def read(self, image: str | None = None) -> list[Correction]:
        """The corrections of one image, or of all, by key; also what was undone.

        Those of an image that has another file now are left out: they are about what it no longer shows.

        Raises:
            UserError: a damaged part, or one that is not of this label set.
        """
        self.parts()
        fitting = [
            one
            for one in self._merged.values()
            if (image is None or one.image == image) and self._known[one.image].digest == one.image_digest
        ]
        return sorted(fitting, key=lambda one: one.key)

    def by_image(self) -> dict[str, list[Correction]]:
        """As `read`, by image_id.

        Raises:
            UserError: as `read`.
        """
        return by_image(self.read())

    def images(self) -> list[str]:
        """Ids of the images that have corrections, also undone ones, sorted.

        Raises:
            UserError: as `read`.
        """
        return sorted({one.image for one in self.read()})

    def keys(self) -> set[str]:
        """All keys, also of those that `read` leaves out.

        Raises:
            UserError: as `read`.
        """
        self.parts()
        return set(self._merged)

    def problems(self) -> dict[str, str]:
        """What is wrong with each part that `read` refuses, by its name; nothing is remembered."""
        found: dict[str, str] = {}
        for name in self._names():
            try:
                self._check_known(self._load(name), self._where(name))
            except UserError as problem:
                found[name] = str(problem)
            except FileNotFoundError:  # packed into another one since it was listed
                continue
        return found

    def _names(self) -> list[str]:
        folder = storage.join(self.root, CORRECTIONS)
        return [name for name in storage.list_names(folder) if _PART.fullmatch(name)]

    def _where(self, part: str) -> str:
        return storage.display(storage.join(self.root, CORRECTIONS, part))

    def parts(self) -> dict[str, tuple[Correction, ...]]:
        """The corrections of each part, by its name; those that are new are read and checked.

        Raises:
            UserError: as `read`.
        """
        problem: OSError | None = None
        for _ in range(_TRIES):
            try:
                return self._read_parts()
            except FileNotFoundError as error:  # packed into another one since it was listed
                problem = error
        raise UserError(f"cannot read {self._where('')}: {problem}", exit_code=1)

    def _read_parts(self) -> dict[str, tuple[Correction, ...]]:
        names = self._names()
        new = [name for name in names if name not in self._loaded]
        loaded = self._load_all(new)
        # One look at the label set for all, each part may be a single click.
        self._images({one.image for part in loaded.values() for one in part})
        for name, part in loaded.items():
            self._check_known(part, self._where(name))
        if gone := self._loaded.keys() - set(names):
            self._loaded = {name: part for name, part in self._loaded.items() if name not in gone}
            self._merged = {one.key: one for part in self._loaded.values() for one in part}
        self._loaded |= loaded
        self._merged |= {one.key: one for part in loaded.values() for one in part}
        if (count := len(self._merged)) > MAX_CORRECTIONS:
            raise UserError(f"{self._where('')}: {count} corrections (allowed: at most {MAX_CORRECTIONS})")
        self._last = max([self._last, *(one.key for part in loaded.values() for one in part)])
        return dict(self._loaded)

    def _load_all(self, names: Sequence[str]) -> dict[str, tuple[Correction, ...]]:
        if len(names) < 2:  # a click: to start threads would take longer than to read it
            return {name: self._load(name) for name in names}
        with ThreadPoolExecutor(_READERS) as pool:
            return dict(zip(names, pool.map(self._load, names), strict=True))

    def _load(self, name: str) -> tuple[Correction, ...]:
        uri = storage.join(self.root, CORRECTIONS, name)
        try:
            data = storage.read_bytes(uri, MAX_PART_BYTES)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"cannot read {storage.display(uri)}: {error}", exit_code=1) from error
        try:
            return decode_corrections(data)
        except (OSError, pa.ArrowException, ValueError, TypeError, OverflowError) as problem:
            remedy = "delete it to go on without it"
            raise UserError(f"{self._where(name)} is damaged ({_reason(problem)}); {remedy}") from None

    def _check_known(self, corrections: Sequence[Correction], where: str) -> None:
        """Refuse what is not about this label set: it may have come with files of another one."""
        images = self._images({one.image for one in corrections})
        if self._classes is None:
            self._classes = frozenset(map(str, self._store.provenance["classes"]))
        for one in corrections:
            image, what = images.get(one.image), f"{where}: {_name(one.image)}"
            if image is None or image.status != "ok":
                raise UserError(f"{what} is no labelled image of the label set")
            if one.class_name is not None and one.class_name not in self._classes:
                raise UserError(f"{what}: class {visible(one.class_name)[:80]!r} is none of the label set's")
            if one.size != image.size and one.image_digest == image.digest:
                raise UserError(
                    f"{what}: a correction of {_pixels(one.size)}, the image has {_pixels(image.size)}"
                )

    def _check_new(self, corrections: Sequence[Correction]) -> None:
        """What `read` takes, but nobody should write."""
        keys = {one.key: one.image for one in corrections}
        if len(keys) < len(corrections):
            raise UserError(f"{_REFUSED}: two corrections with one key")
        if other := next((c for c in corrections if self._known[c.image].digest != c.image_digest), None):
            raise UserError(f"{_REFUSED}: {_name(other.image)} has another file than the label set's image")
        undos = [one for one in corrections if one.target is not None]
        known = {one.key: one.image for one in self.read()} | keys if undos else {}
        if lost := next((one for one in undos if known.get(str(one.target)) != one.image), None):
            raise UserError(f"{_REFUSED}: {_name(lost.image)} has no correction {lost.target} to undo")

    def _images(self, wanted: Iterable[str]) -> dict[str, _Image]:
        """What the label set has of some images; it is read again for one that was not there before."""
        names = set(wanted)
        for fresh in (False, True):
            missing = names - self._known.keys()
            if missing:
                self._known |= self._lookup(missing, fresh=fresh)
        return {name: self._known[name] for name in names & self._known.keys()}

    def _lookup(self, wanted: Iterable[str], *, fresh: bool) -> dict[str, _Image]:
        if self._index is None or fresh:
            self._index = self._store.columns(_COLUMNS)
        names = pa.array(sorted(wanted), pa.string())
        rows = self._index.filter(pc.is_in(self._index["image_id"], names)).to_pylist()
        return {
            row["image_id"]: _Image(row["status"], row["sha256"], (row["height"] or 0, row["width"] or 0))
            for row in rows
        }


def encode_corrections(corrections: Sequence[Correction]) -> bytes:
    """Corrections as a Parquet file.

    Raises:
        UserError: they are more than a reader takes.
    """
    data = encode_part(to_table(corrections), row_group_size=_ROWS, compressed=False)
    if len(data) > MAX_PART_BYTES:
        raise UserError(f"{_REFUSED}: corrections of {len(data)} bytes at once (allowed: {MAX_PART_BYTES})")
    return data


def decode_corrections(data: bytes) -> tuple[Correction, ...]:
    """The corrections of such a file.

    Raises:
        ValueError, TypeError, OverflowError: not such a file.
        pa.ArrowException, OSError: not Parquet, or too large.
    """
    if reason := damage(data):
        raise ValueError(reason)
    file = PartReader(pa.BufferReader(data))
    if not file.schema_arrow.remove_metadata().equals(SCHEMA):
        raise ValueError("other columns than those of corrections")
    return tuple(map(from_row, file.read().to_pylist()))


def write_corrections(uri: str, corrections: Sequence[Correction]) -> None:
    """Write a file of corrections outside of a log.

    Raises:
        UserError: it cannot be written.
    """
    storage.write_atomic(uri, encode_corrections(corrections))


def read_corrections(uri: str) -> list[Correction] | None:
    """The corrections of such a file; None if there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        return list(decode_corrections(storage.read_bytes(uri, MAX_PART_BYTES)))
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, ValueError, TypeError, OverflowError) as problem:
        raise UserError(f"{storage.display(uri)} is damaged ({_reason(problem)})") from None


def _reason(problem: Exception) -> str:
    return (visible(str(problem)) or type(problem).__name__).splitlines()[0]


def _name(image_id: str) -> str:
    return visible(image_id)[:200]


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} pixels"
