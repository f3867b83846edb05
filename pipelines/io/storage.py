"""Files on local disks and object stores: read, list, and write so that no name ever holds half a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from stat import S_ISDIR, S_ISREG
from tempfile import NamedTemporaryFile
from typing import TypeVar

import pyarrow as pa
from fsspec import AbstractFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from segray.models.messages import first_line
from segray.pipelines.errors import UserError
from segray.pipelines.io import local_files
from segray.pipelines.io.clients import arrow_storage, open_storage
from segray.pipelines.io.local_files import is_temporary
from segray.pipelines.io.uris import display, is_local, join, local_path, redacted, scheme, split_query

__all__ = [
    "StoredFile",
    "arrow_storage",
    "create",
    "delete",
    "delete_tree",
    "display",
    "exists",
    "is_local",
    "is_temporary",
    "join",
    "list_files",
    "list_names",
    "local_path",
    "open_input",
    "open_storage",
    "read_bytes",
    "read_range",
    "redacted",
    "rename",
    "scheme",
    "split_query",
    "stat",
    "unfit_name",
    "with_retries",
    "write_atomic",
    "write_chunks",
    "write_error",
]

T = TypeVar("T")

# A reader of these sees a file grow, and their rename does not replace: the store's promises cannot be kept.
_NO_ATOMIC_PUT = {"ftp", "sftp", "ssh", "smb", "hdfs", "webhdfs", "http", "https"}
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs"}
_ATTEMPTS = 7
_READ_AHEAD = 2**20
_FINAL_ERRORS = (FileNotFoundError, PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
_FINAL_CODES = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EFBIG}
_UNFIT_NAME = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_PASSING_STATUSES = {"408", "429", "500", "502", "503", "504"}


@dataclass(frozen=True)
class StoredFile:
    """A file of a listing.

    Attributes:
        name: path under the listed folder.
        size: bytes; 0 where unknown.
        mtime: seconds since 1970; 0.0 where unknown.
    """

    name: str
    size: int
    mtime: float


def with_retries(call: Callable[[], T], uri: str) -> T:
    """`call()`, repeated with growing pauses while an object store has a passing error (503, reset).

    Local errors, missing files and refused access are raised at once.

    Raises:
        OSError: also in place of the exceptions that only a store's client has.
    """
    if is_local(uri):
        return call()
    retrying = Retrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        retry=retry_if_exception(_is_passing),
        reraise=True,
    )
    try:
        return retrying(call)
    except (OSError, UserError, ValueError) as error:
        # Without tenacity's frames, whose state refers back to the error: that circle would keep alive the
        # error of a failed run, where this one is raised while it is handled, and the run's Ray actors.
        raise error.with_traceback(None) from error.__cause__
    except Exception as error:
        raise OSError(_one_line(error)) from error


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return not isinstance(error, _FINAL_ERRORS) and error.errno not in _FINAL_CODES
    # Clients have exceptions of their own: with an HTTP status, or for a connection that fails (botocore).
    status = getattr(error, "status", None) or getattr(error, "code", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    return str(status) in _PASSING_STATUSES or bool(names & {"ConnectionError", "HTTPClientError"})


def read_bytes(uri: str, limit: int | None = None) -> bytes:
    """The whole file.

    Args:
        uri: of the file.
        limit: bytes that it may have; None: any number.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, or is larger than the limit.
    """

    def read() -> bytes:
        with _open_input(uri) as file:
            if limit is not None and file.size() > limit:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            return file.read()

    return with_retries(read, uri)


def read_range(uri: str, start: int, size: int) -> bytes:
    """Some bytes of a file; fewer where it ends before.

    Raises:
        OSError: it cannot be read.
    """
    if is_local(uri):
        with os.fdopen(os.open(local_path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return os.pread(file.fileno(), size, start)
    client, path = open_storage(uri)
    return bytes(with_retries(lambda: client.cat_file(path, start=start, end=start + size), uri))


def open_input(uri: str) -> pa.NativeFile:
    """A random access file; wrap reads of it in `with_retries`."""
    return with_retries(lambda: _open_input(uri), uri)


def _open_input(uri: str) -> pa.NativeFile:
    client, path = open_storage(uri)
    if is_local(uri):
        _require_file(path)
        # Native reads of Parquet release the GIL, which those of a Python file would not.
        return pa.OSFile(path)
    return pa.PythonFile(client.open(path, "rb", block_size=_READ_AHEAD), mode="r")


def _require_file(path: str) -> None:
    """Refuse pipes and devices: a received folder may hold one, or a link to one, that never ends."""
    mode = os.stat(path).st_mode  # noqa: PTH116 (a Path takes too long for each image)
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "not a regular file")


def stat(uri: str) -> StoredFile | None:
    """Size and time of a file, with an empty name; None for a folder.

    Raises:
        FileNotFoundError: there is neither.
    """
    client, path = open_storage(uri)
    # Not isfile() or exists(), which take a failing store for "no".
    info = with_retries(lambda: client.info(path), uri)
    return _stored(info, "") if info["type"] == "file" else None


def exists(uri: str) -> bool:
    """Whether there is a file or folder of that name."""
    try:
        stat(uri)
    except (FileNotFoundError, NotADirectoryError):  # the second for a path below a file
        return False
    return True


def list_names(uri: str) -> list[str]:
    """Sorted names of the files and folders directly under a folder, hidden too; [] if it is missing.

    Raises:
        NotADirectoryError: it is a file.
    """
    if is_local(uri):
        return local_files.names(local_path(uri))
    client, path = open_storage(uri)
    try:
        infos = with_retries(lambda: client.ls(path, detail=True), uri)
    except (FileNotFoundError, NotADirectoryError):
        # Clients of folders raise the second for a path below a file.
        return []
    if any(_relative(info, path) == "" and info["type"] == "file" for info in infos):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), display(uri))
    return sorted(name.rpartition("/")[2] for info in infos if (name := _relative(info, path)))


def list_files(uri: str, *, follow: bool = True) -> list[StoredFile]:
    """All files below a folder, in no order; [] if it is missing.

    Args:
        uri: of the folder.
        follow: which links of a local folder are followed, see `FolderLinks`.
    """
    if is_local(uri):
        # The local client of fsspec does not follow links.
        return [StoredFile(*file) for file in local_files.walk(local_path(uri), follow=follow)]
    client, path = open_storage(uri)
    if scheme(uri) in _OBJECT_STORES:
        infos = with_retries(lambda: list(client.find(path, detail=True).values()), uri)
    else:
        infos = list(_walk(client, path, uri))
    files = ((info, _relative(info, path)) for info in infos if info["type"] == "file")
    return [_stored(info, name) for info, name in files if name]


def _walk(client: AbstractFileSystem, path: str, uri: str) -> Iterator[Mapping[str, object]]:
    """What find() does for other stores, which leaves out each folder whose listing fails."""
    folders = [path]
    while folders:
        folder = folders.pop()
        try:
            infos = with_retries(partial(client.ls, folder, detail=True), uri)
        except FileNotFoundError:
            continue
        for info in infos:
            if info["type"] == "directory" and _relative(info, folder):
                folders.append(info["name"])
            else:
                yield info


def _relative(info: Mapping[str, object], folder: str) -> str:
    # Some clients list paths with a slash in front that the folder's path has not, or the reverse.
    return str(info["name"]).strip("/").removeprefix(folder.strip("/")).strip("/")


def _stored(info: Mapping[str, object], name: str) -> StoredFile:
    size = info.get("size")
    modified = info.get("mtime") or info.get("LastModified")
    seconds = modified.timestamp() if hasattr(modified, "timestamp") else modified
    return StoredFile(
        name,
        size if isinstance(size, int) else 0,
        float(seconds) if isinstance(seconds, int | float) else 0.0,
    )


def delete(uri: str) -> None:
    """Remove a file; it is fine if it does not exist.

    Raises:
        UserError: it is still there (1).
    """
    client, path = open_storage(uri)
    try:
        with_retries(lambda: client.rm_file(path), uri)
    except FileNotFoundError:
        return
    except OSError as error:
        if exists(uri):
            raise UserError(f"cannot delete {display(uri)}: {_one_line(error)}", exit_code=1) from error


def rename(old: str, new: str) -> None:
    """Give a file another name in the same folder; an object store copies it, then deletes the old one.

    Raises:
        FileNotFoundError: there is none.
        UserError: refused; the file has its old name.
    """
    try:
        if is_local(old):
            local_path(old).replace(local_path(new))
        else:
            write_atomic(new, read_bytes(old))
            delete(old)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise write_error(new, error) from error


def delete_tree(uri: str) -> None:
    """Remove a folder and everything below it; it is fine if it does not exist.

    Raises:
        OSError: not all of it could be removed.
    """
    client, path = open_storage(uri)
    try:
        with_retries(lambda: client.rm(path, recursive=True), uri)
    except FileNotFoundError:
        return


def write_atomic(uri: str, data: bytes) -> None:
    """Write a file so that its name shows either the old content or all of the new one, whatever is killed.

    Local: a temporary name in the same folder (made when missing), fsync, rename. Object stores: one PUT.

    Raises:
        UserError: disk full, read-only, refused; nothing was written under the name.
    """
    try:
        if is_local(uri):
            local_files.write_atomic(local_path(uri), (data,))
        else:
            with_retries(lambda: _put(uri, data), uri)
    except OSError as error:
        raise write_error(uri, error) from error


def write_chunks(uri: str, chunks: Iterable[bytes]) -> None:
    """`write_atomic`, of a file that need not fit into memory; on its way to a store it is on the disk.

    Raises:
        UserError: as `write_atomic`.
    """
    try:
        if is_local(uri):
            local_files.write_atomic(local_path(uri), chunks)
            return
        with NamedTemporaryFile() as file:
            file.writelines(chunks)
            file.flush()
            with_retries(lambda: _upload(uri, file.name), uri)
    except OSError as error:
        raise write_error(uri, error) from error


def create(uri: str, data: bytes) -> None:
    """Write an object only if its name is free: S3 and GCS decide that themselves, by a conditional PUT.

    Other clients of fsspec look first and then write. A repeated request can find its own object.

    Raises:
        FileExistsError: the name is taken.
        UserError: refused; nothing was written.
    """
    try:
        with_retries(lambda: _put(uri, data, mode="create"), uri)
    except FileExistsError:
        raise
    except OSError as error:
        raise write_error(uri, error) from error


def write_error(uri: str, error: OSError) -> UserError:
    """The message for a user who cannot write: exit code 2 where it is forbidden, 1 where it fails."""
    code = 2 if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR} else 1
    message = f"cannot write {display(uri)}: {_one_line(error)}; nothing was written under that name"
    return UserError(message, exit_code=code)


def unfit_name(problem: UserError) -> str | None:
    """Why a file could not be written, if only its name is to blame: another file system allowed it."""
    cause = problem.__cause__
    return cause.strerror if isinstance(cause, OSError) and cause.errno in _UNFIT_NAME else None


def _put(uri: str, data: bytes, mode: str = "overwrite") -> None:
    client, path = _open_store(uri)
    client.pipe_file(path, data, **({} if mode == "overwrite" else {"mode": mode}))


def _upload(uri: str, file: str) -> None:
    client, path = _open_store(uri)
    client.put_file(file, path)


def _open_store(uri: str) -> tuple[AbstractFileSystem, str]:
    if scheme(uri) in _NO_ATOMIC_PUT:
        raise UserError(
            f"{display(uri)}: {scheme(uri)}:// has no atomic write; use a folder or an object store"
        )
    return open_storage(uri)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.splitlines()[0]
    return first_line(error)
