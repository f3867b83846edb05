"""Folders, globs and single images, on this machine and on object stores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from segray.pipelines.errors import UserError
from segray.pipelines.io import storage
from segray.pipelines.io.image_ids import escape_name
from segray.pipelines.io.listing import LeftOut, file_ref, is_image, matches, reason, split_glob, walk_images
from segray.pipelines.io.manifest import ImageRef


class FolderSource:
    """The images below a folder, or those of a glob, or one file.

    Args:
        name: path or URI.
        follow: which links are followed, see `FolderLinks`.
        left_out: is filled with the files of other extensions as the listing goes on.
    """

    def __init__(self, name: str, follow: bool, left_out: LeftOut) -> None:
        self.name, self._follow, self._left_out = name, follow, left_out

    def list(self) -> Iterator[ImageRef]:
        """The images, ascending by image_id; of a local folder, one branch of folders is in memory at a time.

        Raises:
            UserError: at once, where there is nothing.
        """
        if storage.is_local(self.name):
            return _list_local(str(storage.local_path(self.name)), self._follow, self._left_out)
        base, options = storage.split_query(self.name)
        return _list_remote(base.rstrip("/"), options, self._left_out)


def _list_local(path: str, follow: bool, left_out: LeftOut) -> Iterator[ImageRef]:
    root, patterns = (path, ()) if os.path.lexists(path) else split_glob(path, "*?[")
    if not os.path.lexists(root):
        raise UserError(f"images: no such path: {root}")
    if not Path(root).is_dir():
        if patterns:
            raise UserError(f"images: not a folder: {root}")
        return iter([file_ref(root, escape_name(Path(root).name))])
    try:
        return walk_images(root, patterns, follow, left_out)
    except OSError as error:
        raise UserError(f"images: {root} {reason(error)}") from error


def _list_remote(base: str, options: str, left_out: LeftOut) -> Iterator[ImageRef]:
    root, patterns = split_glob(base, "*[")
    uri = root + options
    try:
        file = storage.stat(uri)
        if file is not None and not patterns:
            return iter([ImageRef(escape_name(root.rpartition("/")[2]), uri, file.size, file.mtime)])
        files = storage.list_files(uri)
    except FileNotFoundError as error:
        raise UserError(f"images: no such path: {storage.display(root)}") from error
    except OSError as error:
        raise UserError(f"images: {storage.display(root)} {reason(error)}") from error
    refs = (_remote_ref(file, uri, patterns, left_out) for file in files)
    return iter(sorted((ref for ref in refs if ref), key=lambda ref: ref.image_id))


def _remote_ref(
    file: storage.StoredFile, uri: str, patterns: Sequence[str], left_out: LeftOut
) -> ImageRef | None:
    names = file.name.split("/")
    parts = [escape_name(name) for name in names]
    hidden = any(not name or name.startswith(".") for name in names)
    if hidden or (patterns and not matches(parts, patterns)):
        return None
    if not is_image(names[-1]):
        left_out.add(names[-1])
        return None
    return ImageRef("/".join(parts), storage.join(uri, *names), file.size, file.mtime)
