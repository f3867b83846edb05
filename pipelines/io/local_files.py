"""Files of this machine: written atomically, and listed with links followed."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


def write_atomic(path: Path, data: bytes) -> None:
    """Write a temporary file in the same folder (made when missing), fsync it, rename it.

    Raises:
        OSError: nothing was written under the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Starts with a dot, so that no reader of *.parquet ever takes it for a part.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


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


def walk(folder: Path) -> Iterator[tuple[str, int, float]]:
    """(path under the folder, bytes, seconds since 1970) of each regular file below it.

    Raises:
        OSError: a folder that cannot be listed.
    """
    if not folder.exists():
        return
    for base, _, names in os.walk(folder, onerror=_raise, followlinks=True):
        for name in names:
            path = Path(base, name)
            if path.is_file():
                status = path.stat()
                yield str(path.relative_to(folder)), status.st_size, status.st_mtime


def _raise(error: OSError) -> None:
    raise error
