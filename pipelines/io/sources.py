"""From a folder, glob, object store or manifest to its images: stable ids, each exactly once."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

from segray.pipelines.errors import UserError
from segray.pipelines.io import received, storage
from segray.pipelines.io.image_ids import check_image_id, escape_name
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.listing import (
    EXTENSIONS,
    LeftOut,
    file_ref,
    is_image,
    matches,
    reason,
    split_glob,
    walk_images,
)
from segray.pipelines.io.manifest import ImageRef, read_manifest, read_received, write_manifest
from segray.pipelines.io.uris import parent

__all__ = [
    "EXTENSIONS",
    "ImageRef",
    "LeftOut",
    "check_image_id",
    "escape_name",
    "follows_links",
    "image_roots",
    "list_images",
    "read_allowed",
    "read_image",
    "read_labelled",
    "read_manifest",
    "write_manifest",
]

MAX_FILE_BYTES = 1 << 30


def list_images(
    spec: str, also: Sequence[str] = (), *, follow: bool = True, left_out: LeftOut | None = None
) -> Iterator[ImageRef]:
    """The images of a source, strictly ascending by image_id, without reading them.

    Folders are walked down. A glob (`*`, `?`, `[...]`, and `**` for any folders) counts from its longest
    folder without a wildcard; in a URI "?" is no wildcard. A .parquet file is a manifest. Names that start
    with a dot and extensions other than `EXTENSIONS` are left out. Symlinks are followed, and ids come from
    the link's own path. A link to a folder that holds it, a link to nothing, and folders and pipes with an
    image's name have a `problem`. A local walk holds the names of one branch of folders at a time.

    Args:
        spec: local folder, file, glob or manifest, or the URI of one.
        also: folders below which the rows of a manifest may name images, besides its own folder.
        follow: else links to folders, and out of the folder, have a `problem` too.
        left_out: is filled with the files of other extensions as the listing goes on.

    Raises:
        UserError: at once, where there is nothing, or no image, or a manifest names files anywhere else.
    """
    left_out = LeftOut() if left_out is None else left_out
    refs = _list(spec, also, follow, left_out)
    first = next(refs, None)
    if first is None:
        others = f" ({left_out})" if left_out else ""
        looked_for = " ".join(EXTENSIONS)
        where = f"{storage.display(spec)}{others}"
        raise UserError(f"images: no image in {where}; extensions looked for: {looked_for}")
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
        own = path if os.path.lexists(path) else split_glob(path, "*?[")[0]
    else:
        base, options = storage.split_query(spec)
        own = split_glob(base.rstrip("/"), "*[")[0] + options
    return received.absolute_roots([own, *also])


def follows_links(spec: str, follow: bool) -> bool:
    """Whether links may lead an image out of `image_roots`: those of the user's own folder, as the user says.

    Never those that the rows of a manifest name.
    """
    return follow and not _is_manifest(spec)


def _is_manifest(spec: str) -> bool:
    if storage.is_local(spec):
        path = storage.local_path(spec)
        return path.name.endswith(".parquet") and path.is_file()
    return storage.split_query(spec)[0].rstrip("/").endswith(".parquet")


def _list(spec: str, also: Sequence[str], follow: bool, left_out: LeftOut) -> Iterator[ImageRef]:
    if _is_manifest(spec):
        return _in_order(spec, image_roots(spec, also))
    if storage.is_local(spec):
        return _list_local(str(storage.local_path(spec)), follow, left_out)
    base, options = storage.split_query(spec)
    return _list_remote(base.rstrip("/"), options, left_out)


def _in_order(manifest: str, roots: Sequence[str]) -> Iterator[ImageRef]:
    """Ascending by image_id; a manifest that is so already is never held in memory."""
    ids = (ref.image_id for ref in read_received(manifest, roots))
    if all(before <= after for before, after in pairwise(ids)):
        return read_received(manifest, roots)
    return iter(sorted(read_received(manifest, roots), key=lambda ref: ref.image_id))


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


def read_allowed(uri: str, roots: Sequence[str] | None, *, follow: bool = False) -> bytes:
    """The bytes of the image that a row names, if the user allows it; nothing is opened otherwise.

    Args:
        uri: of the row.
        roots: what `image_roots` gives for the user's `images`; None: the row is the user's own.
        follow: links below the roots may lead out of them, see `follows_links`.

    Raises:
        ImageProblem: "error" and why, as `read_image`; "skipped" for a file that is not below the roots.
    """
    if roots is None:
        return read_image(uri)
    try:
        allowed = received.check_received_uri(uri, roots)
        if not follow:
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
        raise ImageProblem("error", reason(error)) from error


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
