"""From a folder, glob, object store or manifest to its images: stable ids, each exactly once."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import chain, pairwise
from pathlib import Path

from segray.pipelines.errors import UserError
from segray.pipelines.io import received, storage
from segray.pipelines.io.image_ids import check_image_id, escape_name
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.manifest import ImageRef, read_manifest, read_received, write_manifest
from segray.pipelines.io.uris import parent

__all__ = [
    "EXTENSIONS",
    "ImageRef",
    "check_image_id",
    "escape_name",
    "image_roots",
    "list_images",
    "read_allowed",
    "read_image",
    "read_labelled",
    "read_manifest",
    "write_manifest",
]

# HEIC cannot be decoded, but a phone's images must become rows with a reason and not vanish.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".heic", ".heif"),
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_FILE_BYTES = 1 << 30


def list_images(spec: str, also: Sequence[str] = ()) -> Iterator[ImageRef]:
    """The images of a source, strictly ascending by image_id, without reading them.

    Folders are walked down. A glob (`*`, `?`, `[...]`, and `**` for any folders) counts from its longest
    folder without a wildcard; in a URI "?" is no wildcard. A .parquet file is a manifest. Names that start
    with a dot and extensions other than `EXTENSIONS` are left out. Symlinks to files under the same root
    are followed; all other links, and folders and pipes with an image's name, have a `problem`.
    A local walk holds the names of one branch of folders at a time.

    Args:
        spec: local folder, file, glob or manifest, or the URI of one.
        also: folders below which the rows of a manifest may name images, besides its own folder.

    Raises:
        UserError: at once, where there is nothing, or no image, or a manifest names files anywhere else.
    """
    refs = _list(spec, also)
    first = next(refs, None)
    if first is None:
        looked_for = " ".join(EXTENSIONS)
        raise UserError(f"images: no image in {storage.display(spec)}; extensions looked for: {looked_for}")
    return chain([first], refs)


def image_roots(spec: str, also: Sequence[str] = ()) -> tuple[str, ...]:
    """The folders, or the one file, below which the images of a source are: for `read_allowed`.

    Args:
        spec: as in `list_images`.
        also: as in `list_images`.
    """
    if _is_manifest(spec):
        own = parent(spec)
    elif storage.is_local(spec):
        path = str(storage.local_path(spec))
        own = path if os.path.lexists(path) else _split_glob(path, "*?[")[0]
    else:
        base, options = storage.split_query(spec)
        own = _split_glob(base.rstrip("/"), "*[")[0] + options
    return received.absolute_roots([own, *also])


def _is_manifest(spec: str) -> bool:
    if storage.is_local(spec):
        path = storage.local_path(spec)
        return path.name.endswith(".parquet") and path.is_file()
    return storage.split_query(spec)[0].rstrip("/").endswith(".parquet")


def _list(spec: str, also: Sequence[str]) -> Iterator[ImageRef]:
    if _is_manifest(spec):
        return _in_order(spec, image_roots(spec, also))
    if storage.is_local(spec):
        return _list_local(str(storage.local_path(spec)))
    base, options = storage.split_query(spec)
    return _list_remote(base.rstrip("/"), options)


def _in_order(manifest: str, roots: Sequence[str]) -> Iterator[ImageRef]:
    """Ascending by image_id; a manifest that is so already is never held in memory."""
    ids = (ref.image_id for ref in read_received(manifest, roots))
    if all(before <= after for before, after in pairwise(ids)):
        return read_received(manifest, roots)
    return iter(sorted(read_received(manifest, roots), key=lambda ref: ref.image_id))


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _local_uri(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        return Path(path).as_uri()
    return path


def _split_glob(path: str, wildcards: str) -> tuple[str, tuple[str, ...]]:
    """The longest folder without a wildcard, and the parts of the pattern under it."""
    parts = path.split("/")
    first = next((i for i, part in enumerate(parts) if any(c in part for c in wildcards)), len(parts))
    return "/".join(parts[:first]) or "/", tuple(parts[first:])


def _matches(parts: Sequence[str], patterns: Sequence[str], *, prefix: bool = False) -> bool:
    """Whether a path fits a glob; with `prefix`, whether something below the path could."""
    if not parts:
        return bool(patterns) if prefix else all(pattern == "**" for pattern in patterns)
    if not patterns:
        return False
    if patterns[0] == "**":
        return prefix or any(_matches(parts[i:], patterns[1:]) for i in range(len(parts) + 1))
    return fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:], prefix=prefix)


def _list_local(path: str) -> Iterator[ImageRef]:
    root, patterns = (path, ()) if os.path.lexists(path) else _split_glob(path, "*?[")
    if not os.path.lexists(root):
        raise UserError(f"images: no such path: {root}")
    if not Path(root).is_dir():
        if patterns:
            raise UserError(f"images: not a folder: {root}")
        return iter([_file_ref(root, escape_name(Path(root).name))])
    try:
        children = _children(root)
    except OSError as error:
        raise UserError(f"images: {root} {_reason(error)}") from error
    refs = _walk(children, os.path.realpath(root), patterns)
    if not patterns:
        return refs
    return (ref for ref in refs if _matches(ref.image_id.split("/"), patterns))


Child = tuple[str, "os.DirEntry[str]"]


def _children(folder: str) -> list[Child]:
    """(key, entry), sorted; folders have the key "name/", so that walking in this order is sorted by id."""
    children: list[Child] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = escape_name(entry.name)
            # A folder that cannot be listed becomes a row, sorted by its bare name.
            closed = entry.is_dir(follow_symlinks=False) and _closed(entry.path)
            if closed is None:
                children.append((f"{name}/", entry))
            if closed or _is_image(name) or entry.is_symlink():
                children.append((name, entry))
    return sorted(children, key=lambda child: child[0])


def _walk(children: list[Child], real_root: str, patterns: Sequence[str]) -> Iterator[ImageRef]:
    # An explicit stack: folders nest deeper than Python's recursion limit.
    stack = [("", iter(children))]
    while stack:
        prefix, siblings = stack[-1]
        key, entry = next(siblings, (None, None))
        if key is None or entry is None:
            stack.pop()
        elif not key.endswith("/"):
            if ref := _entry_ref(entry, prefix + key, real_root):
                yield ref
        elif not patterns or _matches((prefix + key).rstrip("/").split("/"), patterns, prefix=True):
            # A folder that was removed during the walk took its images along.
            with suppress(FileNotFoundError):
                stack.append((prefix + key, iter(_children(entry.path))))


def _entry_ref(entry: os.DirEntry[str], image_id: str, real_root: str) -> ImageRef | None:
    if entry.is_symlink():
        if not _is_image(entry.name) and not Path(entry.path).is_dir():
            return None
        if problem := _link_problem(entry.path, real_root):
            return _problem_ref(entry.path, image_id, problem)
    return _file_ref(entry.path, image_id)


def _link_problem(path: str, real_root: str) -> str | None:
    try:
        target = os.path.realpath(path, strict=True)
    except OSError as error:
        return "symlink loop" if error.errno == errno.ELOOP else "symlink to nothing"
    if not f"{target}/".startswith(f"{real_root.rstrip('/')}/"):
        return "symlink leaves the folder"
    if not Path(target).is_dir():
        return None
    is_loop = f"{os.path.realpath(Path(path).parent)}/".startswith(f"{target}/")
    return "symlink loop" if is_loop else "symlink to a folder, not followed"


def _file_ref(path: str, image_id: str) -> ImageRef:
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


def _closed(folder: str) -> str | None:
    """Why a folder cannot be listed, or None."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        return f"folder {_reason(error)}"
    return None


def _list_remote(base: str, options: str) -> Iterator[ImageRef]:
    root, patterns = _split_glob(base, "*[")
    uri = root + options
    try:
        file = storage.stat(uri)
        if file is not None and not patterns:
            return iter([ImageRef(escape_name(root.rpartition("/")[2]), uri, file.size, file.mtime)])
        files = storage.list_files(uri)
    except FileNotFoundError as error:
        raise UserError(f"images: no such path: {storage.display(root)}") from error
    except OSError as error:
        raise UserError(f"images: {storage.display(root)} {_reason(error)}") from error
    refs = (_remote_ref(file, uri, patterns) for file in files)
    return iter(sorted((ref for ref in refs if ref), key=lambda ref: ref.image_id))


def _remote_ref(file: storage.StoredFile, uri: str, patterns: Sequence[str]) -> ImageRef | None:
    names = file.name.split("/")
    parts = [escape_name(name) for name in names]
    hidden = any(not name or name.startswith(".") for name in names)
    if hidden or not _is_image(names[-1]) or (patterns and not _matches(parts, patterns)):
        return None
    return ImageRef("/".join(parts), storage.join(uri, *names), file.size, file.mtime)


def read_allowed(uri: str, roots: Sequence[str] | None) -> bytes:
    """The bytes of the image that a row names, if the user allows it; nothing is opened otherwise.

    Args:
        uri: of the row.
        roots: what `image_roots` gives for the user's `images`; None: the row is the user's own.

    Raises:
        ImageProblem: "error" and why, as `read_image`; "skipped" for a file that is not below the roots.
    """
    if roots is None:
        return read_image(uri)
    try:
        allowed = received.check_received_uri(uri, roots)
        received.check_links(allowed, roots)
    except UserError as error:
        raise ImageProblem("skipped", str(error)) from None
    return read_image(allowed)


def read_labelled(uri: str, sha256: str | None, home: str, also: Sequence[str] = ()) -> bytes:
    """The bytes of an image that a label set's manifest names.

    Who made the label set may be a stranger. So the image must be below the label set or below `also`, or
    have the checksum of the row: that content is no secret from whoever knows its checksum. On object stores
    this holds for the label set's own bucket, so that no other host is asked.

    Args:
        uri: of the row.
        sha256: of the file when it was labelled.
        home: the label set's folder or URI.
        also: folders of the user.

    Raises:
        ImageProblem: as `read_image`; "skipped" for any other file, "error" for one that has changed.
    """
    places = [home, *also]
    if sha256:
        places += ["/"] if storage.is_local(uri) else [received.bucket(home)]
    try:
        data = read_allowed(uri, received.absolute_roots(places))
    except ImageProblem as problem:
        if problem.status == "skipped":
            raise ImageProblem("skipped", "not an image below the label set or image.roots") from None
        raise
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise ImageProblem("error", "image has changed since it was labelled")
    return data


def read_image(uri: str) -> bytes:
    """The bytes of one image, local or remote: a file that the user named, or that a listing found.

    Raises:
        ImageProblem: "error" and why: missing, no permission, not a regular file, a file above 1 GiB.
    """
    try:
        if storage.is_local(uri):
            return _read_local(str(storage.local_path(uri)))
        return storage.read_bytes(uri, MAX_FILE_BYTES)
    except (OSError, UserError, ValueError) as error:
        raise ImageProblem("error", _reason(error)) from error


def _read_local(path: str) -> bytes:
    # O_NONBLOCK: opening a pipe that nobody writes to would block forever.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageProblem("error", "not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageProblem(
                "error", f"too large ({status.st_size >> 20} MiB > limit {MAX_FILE_BYTES >> 20} MiB)"
            )
        return file.read()


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ELOOP:
        return "symlink loop"
    text = os.strerror(code) if code else " ".join(str(error).split())[:200]
    return f"cannot be read ({storage.redacted(text)})"
