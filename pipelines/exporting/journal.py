"""What an export has finished: a record of what it is, and one hidden file per finished part."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

from segray.pipelines.errors import UserError
from segray.pipelines.exporting.base import Entry
from segray.pipelines.io import output_record, run_lock, storage
from segray.pipelines.io.output_record import check_same

RECORD = "export.json"
_PARTS = ".export"

Bad = tuple[str, str, str]
"""image_id, status and reason of an image that was left out."""


class Finished(TypedDict):
    """A finished part: its images in the order of its rows, and those that were left out."""

    entries: list[Entry]
    bad: list[Bad]


class Journal:
    """The state of an export, in its folder.

    Args:
        out: folder or URI.
        parts: names of the label set's parts.
        token: of the run's lock.
    """

    def __init__(self, out: str, parts: Sequence[str], token: str) -> None:
        self._out, self._parts, self._token = out, parts, token

    def pending(self) -> list[str]:
        """The parts to do: those that no run has finished, and those with images that were left out."""
        there = set(storage.list_names(storage.join(self._out, _PARTS)))
        return [part for part in self._parts if f"{part}.json" not in there or self._read(part)["bad"]]

    def commit(self, part: str, finished: str) -> None:
        """Mark a part as finished; its files have been written.

        Args:
            part: its name.
            finished: `Finished` as JSON.

        Raises:
            UserError: disk full, or another run took the folder over.
        """
        with run_lock.owned(self._out, self._token):
            storage.write_atomic(self._path(part), finished.encode())

    def entries(self, split: str) -> Iterator[Entry]:
        """The images of a split; one part is in memory at a time."""
        for part in self._parts:
            yield from (entry for entry in self._read(part)["entries"] if entry["split"] == split)

    def bad(self) -> Iterator[Bad]:
        """The images that were left out."""
        for part in self._parts:
            yield from map(_bad, self._read(part)["bad"])

    def close(self) -> None:
        """Remove what only a resumed run needs."""
        storage.delete_tree(storage.join(self._out, _PARTS))

    def _path(self, part: str) -> str:
        return storage.join(self._out, _PARTS, f"{part}.json")

    def _read(self, part: str) -> Finished:
        try:
            finished: Finished = json.loads(storage.read_bytes(self._path(part)))
        except (OSError, ValueError) as error:
            where = storage.display(self._path(part))
            raise UserError(f"cannot read {where} ({error}); give another out=DIR", exit_code=1) from error
        return finished


def _bad(row: Sequence[str]) -> Bad:
    image_id, status, reason = row
    return image_id, status, reason


def check_out(out: str, labels: str, made_with: Mapping[str, object]) -> bool:
    """Refuse a folder that holds something else, or an export of something else.

    Returns:
        Whether it holds this export, finished or not.

    Raises:
        UserError: what it holds.
    """
    if storage.join(out) == storage.join(labels):
        raise UserError("out must differ from labels: export never changes the label set that it reads")
    before = output_record.made_with(out, RECORD, "segray export")
    check_same(out, before, made_with, "an export")
    return before is not None


def write_record(out: str, made_with: Mapping[str, object], result: Mapping[str, object] | None) -> None:
    """Write export.json; with a result, the export is complete."""
    document = {"made_with": made_with, "result": result}
    storage.write_atomic(storage.join(out, RECORD), f"{json.dumps(document, indent=1)}\n".encode())


def drop_temporary(out: str) -> None:
    """Remove what killed writers left."""
    for file in storage.list_files(out, follow=False):
        if storage.is_temporary(posixpath.basename(file.name)):
            storage.delete(storage.join(out, *file.name.split("/")))
