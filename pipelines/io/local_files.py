"""Files of this machine: written atomically, and listed with links followed."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from segray.pipelines.io.links import FolderLinks, entered

TEMPORARY_SUFFIX = ".tmp"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""What file systems without hard links answer."""


def write_atomic(path: Path, chunks: Iterable[bytes], *, exclusive: bool = False) -> None:
    """Write a temporary file in the same folder (made when missing), fsync it, rename it.

    Args:
        path: of the file.
        chunks: its content, piece by piece.
        exclusive: only if the name is free.

    Raises:
        FileExistsError: the name is taken.
        OSError: nothing was written under the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            _rename_exclusively(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _rename_exclusively(temporary: Path, path: Path) -> None:
    """A link fails where the name is taken, even if another process takes it now; a rename does not."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)
    else:
        temporary.unlink()


def link_atomic(path: Path, target: Path) -> None:
    """Make a symlink to a file; one that is there already is replaced.

    Raises:
        OSError: refused.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.symlink_to(target)
    temporary.replace(path)
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    # Starts with a dot, so that no reader of *.parquet ever takes it for a part.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF}:
            raise
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether a name is that of a file that a killed `write_atomic` left."""
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def names(folder: Path) -> list[str]:
    """Sorted names of what is directly under a folder, hidden too; [] if it is missing.

    The client of fsspec would also ask for the status of each, which is slow beside a thread that computes.

    Raises:
        NotADirectoryError: it is a file.
    """
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        if folder.is_file():
            raise
        return []  # below a file


def walk(folder: Path, *, follow: bool = True) -> Iterator[tuple[str, int, float]]:
    """(path under the folder, bytes, seconds since 1970) of each regular file below it.

    Args:
        folder: where to start.
        follow: which links are followed, see `FolderLinks`.

    Raises:
        OSError: a folder that cannot be listed.
    """
    if not folder.exists():
        return
    links = FolderLinks(str(folder), follow)
    folders: list[tuple[str, str, tuple[str, ...]]] = [(str(folder), "", (links.real_root,))]
    while folders:
        path, prefix, reals = folders.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_symlink() and links.problem(entry.path, reals):
                    continue
                if entry.is_dir():
                    folders.append((entry.path, f"{prefix}{entry.name}/", entered(entry, reals)))
                elif entry.is_file():
                    status = entry.stat()
                    yield f"{prefix}{entry.name}", status.st_size, status.st_mtime
