"""The label set on disk: parts written so that each is either finished or absent, and read back in order."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from segray.models.label_space import IGNORE_INDEX
from segray.models.messages import first_line
from segray.pipelines.errors import UserError
from segray.pipelines.io import run_lock, storage
from segray.pipelines.label_set.card import CARD
from segray.pipelines.label_set.part_files import damage, encode_part, recorded_digest
from segray.pipelines.label_set.part_reader import PartReader
from segray.pipelines.label_set.schema import (
    class_counts,
    labels_schema,
    labels_table,
    missing_values,
    other_columns,
    provenance_of,
    segments_schema,
    segments_table,
)

__all__ = [
    "DamagedPartError",
    "LabelStore",
    "class_counts",
    "labels_schema",
    "labels_table",
    "part_name",
    "prepare_output",
    "segments_schema",
    "segments_table",
    "write_part",
    "write_run",
]

T = TypeVar("T")

LABELS, SEGMENTS, RUN = "labels", "segments", "run.json"
_PART = re.compile(r"^part-[0-9a-f]{16}\.parquet$")
_OURS = re.compile(
    r"^(labels|segments|corrections|config\.yaml|(run|evaluation|calibration)\.json|evaluation\.csv|manifest\.parquet|report\.html|\..*)$"
)
_ASIDE = ".aside-"
_LABEL_ROWS = 128
# Segments are two orders of magnitude smaller than an image's row.
_SEGMENT_ROWS = 4096
_READERS = 8


class DamagedPartError(UserError):
    """A part cannot be read; the message says how to repair the label set."""


def part_name(image_ids: Iterable[str]) -> str:
    """Name of the part that holds these images; the same ids, in any order, give the same name."""
    digest = hashlib.sha256("\0".join(sorted(image_ids)).encode()).hexdigest()
    return f"part-{digest[:16]}.parquet"


def write_part(root: str, labels: pa.Table, segments: pa.Table, *, token: str | None = None) -> str:
    """Write the segments part, then the labels part of the same name, which is the commit.

    A part that is already committed is left as it is, so that a retried task cannot undo finished work.

    Args:
        root: folder or object store prefix of the label set.
        labels: table of `labels_schema`, each image once.
        segments: table of `segments_schema`, of the images in `labels` only.
        token: of the `RunLock` that must still be held.

    Returns:
        The part's name.

    Raises:
        ValueError: no image, an image twice, or segments of an image that is not in `labels`.
        UserError: disk full, read-only; or exit code 4, another run took the output over.
    """
    name = part_name(_checked_ids(labels, segments))
    if storage.exists(_uri(root, LABELS, name)):
        return name
    encoded = {
        SEGMENTS: encode_part(segments, row_group_size=_SEGMENT_ROWS),
        LABELS: encode_part(labels, row_group_size=_LABEL_ROWS),
    }
    try:
        for folder, data in encoded.items():
            with run_lock.owned(root, token):
                storage.write_atomic(_uri(root, folder, name), data)
    except UserError as error:
        if error.exit_code == run_lock.IN_USE:
            raise
        safe = "finished parts are safe; repair this and run the same command again to make the rest"
        raise UserError(f"{error}; {safe}", exit_code=error.exit_code) from error
    return name


def write_run(root: str, run: Mapping[str, object]) -> None:
    """Write run.json, the sign that a run is complete."""
    data = json.dumps(run, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    storage.write_atomic(storage.join(root, RUN), data.encode())


def prepare_output(root: str) -> None:
    """Check before any model loads that `root` may take a label set.

    Raises:
        UserError: it holds files that are none of a label set's, is a file, or cannot be written to.
    """
    try:
        names = storage.list_names(root)
        foreign = [name for name in names if not (_OURS.match(name) or _is_card(name, names))]
    except OSError as error:
        raise UserError(f"out={storage.display(root)} is not a folder that can be listed: {error}") from error
    for folder in (LABELS, SEGMENTS):
        names = [] if foreign else storage.list_names(storage.join(root, folder))
        foreign += [f"{folder}/{name}" for name in names if not (_PART.match(name) or name.startswith("."))]
    if foreign:
        named = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise UserError(
            f"out={storage.display(root)} holds {len(foreign)} files of something else ({named}); "
            "allowed: a new or empty folder, or one that segray wrote"
        )
    if storage.is_local(root):
        _require_writable(root)


def _is_card(name: str, names: Sequence[str]) -> bool:
    """Whether a file is the card of a label set; beside no label set it is the user's."""
    return name == CARD and not {LABELS, "config.yaml"}.isdisjoint(names)


def _require_writable(root: str) -> None:
    """Ask the system, for nothing may be written yet."""
    path = storage.local_path(root)
    folder = next(folder for folder in (path, *path.parents) if folder.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        where = "" if folder == path else f" ({folder})"
        raise UserError(f"out={path} cannot be written to{where}: no access, or a read-only file system")


class LabelStore:
    """Reads the finished parts of a label set; files being written are never seen.

    Every reader raises `DamagedPartError` where a part cannot be read: nothing is silently left out.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the labels: classes, ignore index, prompts, models, thresholds.

        Raises:
            UserError: there is no finished part.
        """
        parts = self.parts()
        if not parts:
            raise UserError(f"{storage.display(self.root)}: no label set here (no {LABELS}/part-*.parquet)")
        with self._open(LABELS, parts[0]) as file:
            try:
                return provenance_of(file.schema_arrow)
            except ValueError as error:
                raise self._unreadable(_uri(self.root, LABELS, parts[0]), error) from error

    def parts(self) -> list[str]:
        """Names of the finished parts, sorted."""
        return self._names(LABELS)

    @property
    def ignore_index(self) -> int:
        """The id of pixels that count for nothing."""
        return int(self.provenance.get("ignore_index", IGNORE_INDEX))

    def fingerprint(self) -> str:
        """A SHA-256 of all finished parts, by the checksums in their footers: no row is read."""
        digest = hashlib.sha256()
        for part, folder in product(self.parts(), (LABELS, SEGMENTS)):
            with self._open(folder, part) as file:
                digest.update(f"{folder}/{part} {recorded_digest(file.metadata)}\n".encode())
        return digest.hexdigest()

    def statuses(self, parts: Sequence[str] | None = None) -> Iterator[tuple[str, str, str]]:
        """(image_id, status, part) of every row, or those of some parts; reads these two columns only."""
        with ThreadPoolExecutor(_READERS) as pool:
            for part, table in pool.map(self._part_statuses, self.parts() if parts is None else parts):
                ids, states = table["image_id"].to_pylist(), table["status"].to_pylist()
                yield from zip(ids, states, [part] * len(ids), strict=True)

    def columns(self, names: list[str]) -> pa.Table:
        """Some columns of all rows of the labels table."""
        with ThreadPoolExecutor(_READERS) as pool:
            tables = list(pool.map(lambda part: self._part_columns(part, names), self.parts()))
        return pa.concat_tables(tables) if tables else pa.table({name: [] for name in names})

    def rows(
        self, columns: list[str] | None = None, parts: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Rows as dictionaries, part by part; one row group is in memory at a time.

        Raises:
            ValueError: a column that the labels table does not have.
        """
        for part in self.parts() if parts is None else parts:
            with self._open(LABELS, part) as file:
                for group in range(file.num_row_groups):
                    yield from self._group(file, LABELS, part, group, columns).to_pylist()

    def segments(self, part: str, columns: list[str] | None = None) -> pa.Table:
        """The segments of a part's images."""
        with self._open(SEGMENTS, part) as file:
            self.guarded(SEGMENTS, part, lambda: file.check(range(file.num_row_groups), columns))
            groups = [self._group(file, SEGMENTS, part, i, columns) for i in range(file.num_row_groups)]
            schema = file.schema_arrow
        selected = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        return pa.concat_tables(groups) if groups else selected.empty_table()

    def run(self) -> dict[str, Any] | None:
        """The content of run.json; None while no run is complete.

        Raises:
            UserError: run.json is not JSON.
        """
        try:
            data = storage.read_bytes(storage.join(self.root, RUN))
        except FileNotFoundError:
            return None
        try:
            run = json.loads(data)
            _check_run(run)
        except (ValueError, RecursionError) as error:
            where = storage.display(storage.join(self.root, RUN))
            raise UserError(f"{where} is damaged: {error}; delete it") from error
        return run

    def discard(self, part: str) -> None:
        """Remove a part so that a resume makes its images again: the commit first, then the segments."""
        storage.delete(_uri(self.root, LABELS, part))
        storage.delete(_uri(self.root, SEGMENTS, part))

    def set_aside(self, names: Sequence[str]) -> None:
        """Hide parts from readers, and run.json with them, until their images have new rows.

        Raises:
            UserError: a folder of the label set is a symlink.
        """
        self._require_own_folders()
        for uri, hidden in self._aside(names):
            with suppress(FileNotFoundError):
                storage.rename(uri, hidden)

    def put_back(self, names: Sequence[str]) -> None:
        """Undo `set_aside`."""
        for uri, hidden in self._aside(names):
            with suppress(FileNotFoundError):
                storage.rename(hidden, uri)

    def drop_aside(self) -> None:
        """Remove all that was set aside, by killed repairs too."""
        for folder in (self.root, storage.join(self.root, LABELS), storage.join(self.root, SEGMENTS)):
            for name in storage.list_names(folder):
                if name.startswith(_ASIDE):
                    storage.delete(storage.join(folder, name))

    def _aside(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each file and its hidden name; the commit first."""
        yield storage.join(self.root, RUN), storage.join(self.root, _ASIDE + RUN)
        for folder, name in product((LABELS, SEGMENTS), names):
            yield _uri(self.root, folder, name), _uri(self.root, folder, _ASIDE + name)

    def orphans(self) -> list[str]:
        """Names of segments parts without a labels part: their write was cut before the commit."""
        return sorted(set(self._names(SEGMENTS)) - set(self.parts()))

    def drop_orphans(self) -> int:
        """Remove what killed writers left (orphans, temporary files); only while holding the run lock.

        Returns:
            How many files were removed.

        Raises:
            UserError: a folder of the label set is a symlink.
        """
        self._require_own_folders()
        leftovers = [_uri(self.root, SEGMENTS, name) for name in self.orphans()]
        for folder in (self.root, storage.join(self.root, LABELS), storage.join(self.root, SEGMENTS)):
            names = [name for name in storage.list_names(folder) if storage.is_temporary(name)]
            leftovers += [storage.join(folder, name) for name in names]
        for uri in leftovers:
            storage.delete(uri)
        return len(leftovers)

    def _require_own_folders(self) -> None:
        """Whoever made the label set may have put a link there to files of its user."""
        for folder in (storage.join(self.root, name) for name in (LABELS, SEGMENTS)):
            if storage.is_local(folder) and storage.local_path(folder).is_symlink():
                what = f"{storage.display(folder)} is a symlink, and files in it would be removed"
                raise UserError(f"{what}: of a label set only the whole folder may be a symlink")

    def _names(self, folder: str) -> list[str]:
        return [name for name in storage.list_names(storage.join(self.root, folder)) if _PART.match(name)]

    def _part_statuses(self, part: str) -> tuple[str, pa.Table]:
        return part, self._part_columns(part, ["image_id", "status"])

    def _part_columns(self, part: str, names: list[str]) -> pa.Table:
        with self._open(LABELS, part) as file:
            table = self.guarded(LABELS, part, lambda: file.read(names))
            return self._with_keys(table, LABELS, part).replace_schema_metadata()

    def _open(self, folder: str, part: str) -> PartReader:
        source = _uri(self.root, folder, part)
        file = self.guarded(folder, part, lambda: PartReader(storage.open_input(source)))
        if other := other_columns(file.schema_arrow, segments=folder == SEGMENTS):
            raise self._damaged(source, f"other columns than a label set's: {', '.join(other)}")
        return file

    def _group(
        self, file: PartReader, folder: str, part: str, group: int, columns: list[str] | None
    ) -> pa.Table:
        missing = {column.partition(".")[0] for column in columns or []} - set(file.schema_arrow.names)
        if missing:
            raise ValueError(f"no columns {sorted(missing)} in {folder}; allowed: {file.schema_arrow.names}")
        table = self.guarded(folder, part, lambda: file.read_row_group(group, columns=columns))
        return self._with_keys(table, folder, part)

    def _with_keys(self, table: pa.Table, folder: str, part: str) -> pa.Table:
        """The table, if every row has an image and a status: readers rely on them."""
        for name in ("image_id", "status"):
            if name in table.column_names and table[name].null_count:
                raise self._damaged(_uri(self.root, folder, part), f"a row without {name}")
        for name in missing_values(table):
            raise self._damaged(_uri(self.root, folder, part), f"a labelled row without {name}")
        return table

    def guarded(self, folder: str, part: str, call: Callable[[], T]) -> T:
        """`call()`, which reads a part: again after passing errors of the storage.

        Raises:
            UserError: it cannot be read; DamagedPartError: it is damaged, with what repairs it.
        """
        try:
            return storage.with_retries(call, self.root)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(_uri(self.root, folder, part), error) from error

    def _unreadable(self, uri: str, error: Exception) -> UserError:
        """A damaged part is for `repair`; a store that does not answer must not cost finished work."""
        why = first_line(error)
        try:
            reason = damage(storage.read_bytes(uri))
        except FileNotFoundError:
            reason = "missing"
        except OSError:
            reason = None
        if reason is None:
            return UserError(f"cannot read {storage.display(uri)}: {why}", exit_code=1)
        return self._damaged(uri, reason)

    def _damaged(self, uri: str, reason: str) -> UserError:
        repair = f"segray verify out={storage.display(self.root)} repair=true"
        return DamagedPartError(f"{storage.display(uri)} is damaged ({reason}); run: {repair}")


def _check_run(run: object) -> None:
    """Refuse what readers rely on in another form: it may be anyone's."""
    rows = run.get("rows", {}) if isinstance(run, dict) else None
    if not isinstance(rows, dict) or not all(type(count) is int for count in rows.values()):
        raise ValueError("not a record of a run, with its rows by status")


def _uri(root: str, folder: str, name: str) -> str:
    return storage.join(root, folder, name)


def _checked_ids(labels: pa.Table, segments: pa.Table) -> list[str]:
    ids: list[str] = labels["image_id"].to_pylist()
    if not ids or len(set(ids)) != len(ids) or None in ids:
        raise ValueError(f"a part needs images, each once: {len(ids)} rows, {len(set(ids))} ids")
    strangers = set(pc.unique(segments["image_id"]).to_pylist()) - set(ids)
    if strangers:
        raise ValueError(f"segments of images that are not in the labels: {sorted(strangers, key=str)[:3]}")
    return ids
