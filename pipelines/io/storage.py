"""Files on local disks and object stores: open, list, and write so that no name ever holds half a file."""

from __future__ import annotations

import errno
import functools
import os
import random
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs as pa_fs

from segray.pipelines.errors import UserError

T = TypeVar("T")

TEMPORARY_SUFFIX = ".tmp"
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
# Object keys may hold "?", so only pyarrow's own options count as a query.
_QUERY = re.compile(r"\?((?:region|scheme|endpoint_override|allow_bucket_\w+|anonymous|retry_\w+)=.*)$")
_NATIVE = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
# A reader of these sees a file grow, and their rename does not replace: the store's promises cannot be kept.
_NO_ATOMIC_PUT = {"ftp", "sftp", "ssh", "smb", "hdfs", "webhdfs", "http", "https"}
_ATTEMPTS = 7
_FINAL_ERRORS = (FileNotFoundError, PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
_FINAL_TEXT = re.compile(
    r"HTTP status 40[0134]|ACCESS_DENIED|NO_SUCH_|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN"
    r"|SIGNATURE_DOES_NOT_MATCH|code: (?:UNAUTHENTICATED|PERMISSION_DENIED|NOT_FOUND)",
    re.IGNORECASE,
)


def scheme(uri: str) -> str:
    """The lower-case scheme of a URI; "file" for a plain path."""
    found = _SCHEME.match(uri)
    return found.group(1).lower() if found else "file"


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine's file system."""
    return scheme(uri) in {"file", "local"}


def display(uri: str) -> str:
    """The URI without credentials, for messages and logs."""
    return re.sub(r"//[^/@]*@", "//***@", uri)


def join(uri: str, *names: str) -> str:
    """`uri/name/...`; options behind a "?" stay at the end."""
    query = None if is_local(uri) else _QUERY.search(uri)
    options = query.group(0) if query else ""
    base = uri.removesuffix(options)
    folder = base if base.endswith("://") else base.rstrip("/") + "/"
    return folder + "/".join(names) + options


def local_path(uri: str) -> Path:
    """The absolute path of a plain path or a file:// URI."""
    path = unquote(_SCHEME.sub("", uri)) if _SCHEME.match(uri) else uri
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 (resolve() would follow links)


def open_storage(uri: str) -> tuple[pa_fs.FileSystem, str]:
    """File system and path of a local path, file://, s3://, gs:// or any scheme that fsspec knows.

    Object keys are taken as they are, not percent-decoded. s3:// honours AWS_ENDPOINT_URL and, behind a
    "?", pyarrow's options (region=, endpoint_override=, scheme=).

    Raises:
        UserError: unknown scheme, a package that the scheme needs is missing, or no answer from the store.
    """
    if is_local(uri):
        return pa_fs.LocalFileSystem(), str(local_path(uri))
    query = _QUERY.search(uri)
    plain = uri[: query.start()] if query else uri
    options = query.group(1) if query else ""
    name = scheme(uri)
    if name not in _NATIVE:
        return _open_fsspec(plain)
    bucket, _, key = _SCHEME.sub("", plain).partition("/")
    if not bucket:
        raise UserError(f"{display(uri)}: no bucket; write {name}://BUCKET/FOLDER")
    filesystem, root = _open_native(_NATIVE[name], bucket, options)
    return filesystem, f"{root}/{key}".rstrip("/")


@functools.lru_cache(maxsize=64)
def _open_native(name: str, bucket: str, options: str) -> tuple[pa_fs.FileSystem, str]:
    if name == "s3" and int(pa.__version__.partition(".")[0]) >= 21:
        # One PUT for what fits into it, instead of a multipart upload of one part; older ones refuse the key.
        options = "&".join(["allow_delayed_open=true", *([options] if options else [])])
    uri = f"{name}://{bucket}" + (f"?{options}" if options else "")
    try:
        filesystem, root = pa_fs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"cannot open {display(uri)}: {_one_line(error)}") from error
    return filesystem, root


def _open_fsspec(uri: str) -> tuple[pa_fs.FileSystem, str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        raise UserError(f"{display(uri)}: {_one_line(error)}") from error
    except ValueError as error:
        allowed = "a path, file://, s3://, gs:// or a scheme of fsspec"
        message = f"{display(uri)}: unknown scheme {scheme(uri)}://; allowed: {allowed}"
        raise UserError(message) from error
    return pa_fs.PyFileSystem(pa_fs.FSSpecHandler(filesystem)), path


def with_retries(call: Callable[[], T], uri: str) -> T:
    """`call()`, repeated with growing pauses while an object store answers with a passing error (503, reset).

    Local errors, missing files and refused access are raised at once.

    Raises:
        OSError: also in place of the own exceptions of a store's client.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except Exception as error:
            if attempt == _ATTEMPTS - 1 or is_local(uri) or not _is_transient(error):
                if isinstance(error, OSError | UserError | ValueError):
                    raise
                raise OSError(_one_line(error)) from error
            time.sleep(min(0.05 * 2**attempt, 5.0) * (0.5 + random.random()))
    raise AssertionError


def _is_transient(error: Exception) -> bool:
    if isinstance(error, OSError):
        return not isinstance(error, _FINAL_ERRORS) and not _FINAL_TEXT.search(str(error))
    # Clients of fsspec have their own exceptions, which carry the HTTP status as `status` or `code`.
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return str(status) in {"408", "429", "500", "502", "503", "504"}


def read_bytes(uri: str) -> bytes:
    """The whole file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """

    def read() -> bytes:
        with _open_input(uri) as file:
            return file.read()

    return with_retries(read, uri)


def open_input(uri: str) -> pa.NativeFile:
    """A random access file; wrap reads of it in `with_retries`."""
    return with_retries(lambda: _open_input(uri), uri)


def _open_input(uri: str) -> pa.NativeFile:
    filesystem, path = open_storage(uri)
    client = _fsspec_client(filesystem)
    if client is None:
        return filesystem.open_input_file(path)
    # Not through pyarrow, which asks isfile() first, where fsspec takes a failing store for "no".
    return pa.PythonFile(client.open(path, "rb"), mode="r")


def exists(uri: str) -> bool:
    """Whether there is a file or folder of that name."""
    filesystem, path = open_storage(uri)
    info = with_retries(lambda: filesystem.get_file_info(path), uri)
    return bool(info.type != pa_fs.FileType.NotFound)


def list_names(uri: str) -> list[str]:
    """Sorted names of the files and folders directly under a folder, hidden too; [] when it is missing."""
    filesystem, path = open_storage(uri)
    return with_retries(lambda: sorted(_names(filesystem, path)), uri)


def _names(filesystem: pa_fs.FileSystem, path: str) -> list[str]:
    client = _fsspec_client(filesystem)
    if client is None:
        selector = pa_fs.FileSelector(path, allow_not_found=True)
        return [info.base_name for info in filesystem.get_file_info(selector)]
    # Not through pyarrow, which asks isdir() first, where fsspec takes a failing store for "no".
    try:
        names = [str(name).rstrip("/") for name in client.ls(path, detail=False)]
    except FileNotFoundError:
        return []
    return [name.rpartition("/")[2] for name in names if name.strip("/") != path.strip("/")]


def _fsspec_client(filesystem: pa_fs.FileSystem) -> Any:
    handler = getattr(filesystem, "handler", None)
    return None if handler is None else handler.fs


def delete(uri: str) -> None:
    """Remove a file; one that is already gone is fine."""
    filesystem, path = open_storage(uri)
    client = _fsspec_client(filesystem)
    try:
        with_retries(lambda: client.rm_file(path) if client else filesystem.delete_file(path), uri)
    except FileNotFoundError:
        return
    except OSError as error:
        if exists(uri):
            raise UserError(f"cannot delete {display(uri)}: {_one_line(error)}", exit_code=1) from error


def write_atomic(uri: str, data: bytes) -> None:
    """Write a file so that its name shows either the old content or all of the new one, whatever is killed.

    Local: a temporary name in the same folder (made when missing), fsync, rename. Object stores: one PUT.

    Raises:
        UserError: disk full, read-only, refused; nothing was written under the name.
    """
    try:
        if is_local(uri):
            _write_local(local_path(uri), data)
        else:
            with_retries(lambda: _put(uri, data), uri)
    except OSError as error:
        raise write_error(uri, error) from error


def write_error(uri: str, error: OSError) -> UserError:
    """What to tell the user who cannot write: exit code 2 where it is forbidden, 1 where it fails."""
    code = 2 if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR} else 1
    message = f"cannot write {display(uri)}: {_one_line(error)}; nothing was written under that name"
    return UserError(message, exit_code=code)


def _write_local(path: Path, data: bytes) -> None:
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


def _put(uri: str, data: bytes) -> None:
    if scheme(uri) in _NO_ATOMIC_PUT:
        raise UserError(
            f"{display(uri)}: {scheme(uri)}:// has no atomic write; use a folder or an object store"
        )
    filesystem, path = open_storage(uri)
    client = _fsspec_client(filesystem)
    if client is not None:
        client.pipe_file(path, data)
        return
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def is_temporary(name: str) -> bool:
    """Whether a name is that of a file that `write_atomic` was killed in."""
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.splitlines()[0]
    return (str(error) or type(error).__name__).splitlines()[0]
