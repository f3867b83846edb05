"""Which kind of source a text is, by its ending."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.listing import split_glob
from segray.pipelines.io.sources.tables import is_manifest

Spec = str | Sequence[str]
"""One source, or several: a sequence, or text with commas."""
Kind = Literal["folder", "tar", "zip", "parquet", "list"]

_ENDINGS: dict[str, Kind] = {
    ".tar": "tar",
    ".zip": "zip",
    ".parquet": "parquet",
    ".txt": "list",
    ".csv": "list",
}
_ALLOWED = "a folder, a glob, an image, .txt, .csv, .tar, .zip, .parquet"
_COMPRESSED_TAR = "a compressed tar gives no access to single images; unpack it, or write a .tar or .zip"
_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_ARCHIVES = (".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
_REFUSED = {
    **dict.fromkeys(_TARS, _COMPRESSED_TAR),
    **dict.fromkeys(_ARCHIVES, "an archive of this kind is not read"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), "a video is not read; extract its frames"),
    **dict.fromkeys((".tfrecord", ".lmdb", ".mdb", ".h5", ".hdf5", ".npz", ".npy"), "not read as images"),
    **dict.fromkeys((".arrow", ".feather", ".json", ".jsonl", ".tsv", ".xlsx"), "not read as a list"),
}
_WILD = "*?[{"


def sources_of(spec: Spec) -> tuple[str, ...]:
    """The sources of a configuration key; a text with commas that is the name of something is one source."""
    if not isinstance(spec, str):
        return tuple(spec)
    if "," not in spec or _exists(spec):
        return (spec,)
    return tuple(part for part in (part.strip() for part in spec.split(",")) if part)


def _exists(spec: str) -> bool:
    base, options = storage.split_query(spec)
    fixed = split_glob(base, _WILD)[0]
    if "," not in fixed:
        return False
    try:
        return (
            os.path.lexists(storage.local_path(fixed))
            if storage.is_local(fixed)
            else storage.exists(fixed + options)
        )
    except (OSError, UserError, ValueError):
        return False


def kind_of(source: str) -> Kind:
    """The kind of a source.

    Raises:
        UserError: it is of a kind that is not read.
    """
    base = storage.split_query(source)[0]
    if storage.is_local(source) and storage.local_path(source).is_dir():
        return "folder"
    name = base.rstrip("/").rpartition("/")[2].lower()
    for ending, why in _REFUSED.items():
        if name.endswith(ending):
            raise UserError(f"images: {storage.display(source)}: {why} (allowed: {_ALLOWED})")
    return next((kind for ending, kind in _ENDINGS.items() if name.endswith(ending)), "folder")


def names_files(source: str) -> bool:
    """Whether a source is a list or a manifest, whose rows name files.

    Raises:
        UserError: it cannot be read.
    """
    kind = kind_of(source)
    return kind == "list" or (kind == "parquet" and not is_wild(source) and is_manifest(source))


def is_wild(source: str) -> bool:
    """Whether a source is a glob or a range of files."""
    if storage.is_local(source):
        path = str(storage.local_path(source))
        return not os.path.lexists(path) and any(c in path for c in _WILD)
    # "?" is no wildcard in a URI.
    return any(c in storage.split_query(source)[0] for c in _WILD.replace("?", ""))


def folder_of(source: str) -> str:
    """The longest folder of a source without a wildcard; a source without any as it is."""
    if storage.is_local(source):
        path = str(storage.local_path(source))
        return split_glob(path, _WILD)[0] if is_wild(source) else path
    base, options = storage.split_query(source)
    return split_glob(base.rstrip("/"), _WILD.replace("?", ""))[0] + options
