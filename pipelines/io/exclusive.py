"""Write a file only if its name is free."""

from __future__ import annotations

from segray.pipelines.io import local_files, storage


def create(uri: str, data: bytes) -> None:
    """As `storage.write_atomic`, but a file of that name is left as it is, also one of another process.

    Raises:
        FileExistsError: the name is taken.
        UserError: disk full, read-only, refused; nothing was written.
    """
    if not storage.is_local(uri):
        _create_object(uri, data)
        return
    try:
        local_files.write_atomic(storage.local_path(uri), (data,), exclusive=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise storage.write_error(uri, error) from error


def _create_object(uri: str, data: bytes) -> None:
    try:
        storage.create(uri, data)
    except FileExistsError:
        # The first try of a request that was repeated may have arrived.
        if storage.read_bytes(uri) != data:
            raise
