"""Folders of this machine walked down to their images, and the rules that all listings share."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segray.pipelines.io.image_ids import escape_name
from segray.pipelines.io.links import FolderLinks, entered
from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.redirects import RedirectRefusedError
from segray.pipelines.io.uris import redacted

# HEIC may not be decoded, and JPEG XL is not, but they must become rows with a reason and not vanish.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".heic", ".heif", ".hif"),
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm"),
)
_ENDINGS_KEPT, _ENDINGS_SHOWN = 100, 6


class LeftOut(Counter[str]):
    """Files that a listing left out, by their ending."""

    def add(self, name: str) -> None:
        """Count a file."""
        ending = PurePosixPath(name).suffix.lower()[:12] or "none"
        self[ending if ending in self or len(self) < _ENDINGS_KEPT else "others"] += 1

    def __str__(self) -> str:
        """Such as "4 files with other endings left out (.nef 3, .txt 1)"; empty without any."""
        files = self.total()
        if not files:
            return ""
        most = sorted(self.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{ending} {count}" for ending, count in most[:_ENDINGS_SHOWN])
        more = ", ..." if len(most) > _ENDINGS_SHOWN else ""
        return f"{files} file{'s' * (files != 1)} with other endings left out ({shown}{more})"


def is_image(name: str) -> bool:
    """Whether a file has the name of an image."""
    return name.lower().endswith(EXTENSIONS)


def split_glob(path: str, wildcards: str) -> tuple[str, tuple[str, ...]]:
    """The longest folder without a wildcard, and the parts of the pattern under it."""
    parts = path.split("/")
    first = next((i for i, part in enumerate(parts) if any(c in part for c in wildcards)), len(parts))
    return "/".join(parts[:first]) or "/", tuple(parts[first:])


def matches(parts: Sequence[str], patterns: Sequence[str], *, prefix: bool = False) -> bool:
    """Whether a path fits a glob; with `prefix`, whether something below the path could."""
    if not parts:
        return bool(patterns) if prefix else all(pattern == "**" for pattern in patterns)
    if not patterns:
        return False
    if patterns[0] == "**":
        return prefix or any(matches(parts[i:], patterns[1:]) for i in range(len(parts) + 1))
    return fnmatchcase(parts[0], patterns[0]) and matches(parts[1:], patterns[1:], prefix=prefix)


class _Child(NamedTuple):
    """An entry of a folder; the key of a folder is "name/", so that this order is that of the ids."""

    key: str
    entry: os.DirEntry[str]
    problem: str | None


def walk_images(root: str, patterns: Sequence[str], follow: bool, left_out: LeftOut) -> Iterator[ImageRef]:
    """The images below a folder, ascending by image_id.

    Args:
        root: the folder.
        patterns: parts of a glob below it; empty: everything.
        follow: see `FolderLinks`.
        left_out: is filled on the way.

    Raises:
        OSError: the folder cannot be listed.
    """
    links = FolderLinks(root, follow)
    first = _children(root, links, (links.real_root,))
    return _walk(first, links, patterns, left_out)


def _walk(
    first: list[_Child], links: FolderLinks, patterns: Sequence[str], left_out: LeftOut
) -> Iterator[ImageRef]:
    # An explicit stack: folders nest deeper than Python's recursion limit.
    reals: tuple[str, ...] = (links.real_root,)
    stack = [("", iter(first), reals)]
    while stack:
        prefix, siblings, reals = stack[-1]
        child = next(siblings, None)
        if child is None:
            stack.pop()
            continue
        image_id = prefix + child.key
        parts = image_id.rstrip("/").split("/")
        if child.key.endswith("/"):
            if not patterns or matches(parts, patterns, prefix=True):
                inside = entered(child.entry, reals)
                # A folder that was removed during the walk took its images along.
                with suppress(FileNotFoundError):
                    stack.append((image_id, iter(_children(child.entry.path, links, inside)), inside))
        elif not patterns or matches(parts, patterns):
            yield from _refs(child, image_id, left_out)


def _children(folder: str, links: FolderLinks, reals: tuple[str, ...]) -> list[_Child]:
    """The entries of a folder that may matter, sorted."""
    children: list[_Child] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = escape_name(entry.name)
            problem = links.problem(entry.path, reals) if entry.is_symlink() else None
            # A folder that cannot be listed becomes a row, sorted by its bare name.
            is_open = problem is None and entry.is_dir() and _closed(entry.path) is None
            if is_open:
                children.append(_Child(f"{name}/", entry, None))
            if not is_open or is_image(name):
                children.append(_Child(name, entry, problem))
    return sorted(children)


def _refs(child: _Child, image_id: str, left_out: LeftOut) -> Iterator[ImageRef]:
    """The image, if it is one or could hold some."""
    path = child.entry.path
    if is_image(child.key) or Path(path).is_dir():
        yield _problem_ref(path, image_id, child.problem) if child.problem else file_ref(path, image_id)
    elif child.problem is None:
        left_out.add(child.key)


def file_ref(path: str, image_id: str) -> ImageRef:
    """A file of this machine as an image, or why it is none."""
    try:
        status = Path(path).stat()
    except OSError:
        # Missing, or in a folder without access: reading it will give an error row.
        return ImageRef(image_id, _local_uri(path))
    if stat.S_ISREG(status.st_mode):
        return ImageRef(image_id, _local_uri(path), status.st_size, status.st_mtime)
    problem = (
        _closed(path) or "a folder, not an image" if stat.S_ISDIR(status.st_mode) else "not a regular file"
    )
    return _problem_ref(path, image_id, problem)


def _problem_ref(path: str, image_id: str, problem: str) -> ImageRef:
    return ImageRef(image_id, _local_uri(path), problem=problem)


def _local_uri(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        return Path(path).as_uri()
    return path


def _closed(folder: str) -> str | None:
    """Why a folder cannot be listed, or None."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        return f"folder {reason(error)}"
    return None


def reason(error: Exception) -> str:
    """Why a file or folder could not be read, as what follows its name."""
    # The client of the web says "missing" for whatever happened.
    if isinstance(error.__cause__, RedirectRefusedError):
        return str(error.__cause__)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ELOOP:
        return "symlink loop"
    text = os.strerror(code) if code else " ".join(str(error).split())[:200]
    return f"cannot be read ({redacted(text)})"
