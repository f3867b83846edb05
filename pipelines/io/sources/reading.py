"""Open an image of a source: a file, or a part of one."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Sequence

from segray.pipelines.errors import UserError
from segray.pipelines.io import received, storage
from segray.pipelines.io.images import ImageProblem
from segray.pipelines.io.listing import reason
from segray.pipelines.io.members import parse_member
from segray.pipelines.io.sources.parts import MAX_FILE_BYTES, read_member


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
            if storage.is_local(allowed) and parse_member(allowed) is None:
                return _read_local(allowed, roots)
    except UserError as error:
        raise ImageProblem("skipped", str(error)) from None
    except (OSError, ValueError) as error:
        raise ImageProblem("error", reason(error)) from error
    return read_image(allowed)


def image_digest(uri: str, roots: Sequence[str] | None, *, follow: bool) -> str | None:
    """sha256 of an image's file, as `read_allowed` reads it; None if it cannot be read."""
    try:
        return hashlib.sha256(read_allowed(uri, roots, follow=follow)).hexdigest()
    except ImageProblem:
        return None


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
    member = parse_member(uri)
    try:
        if member is not None:
            return read_member(member)
        if storage.is_local(uri):
            return _read_local(uri)
        return storage.read_bytes(uri, MAX_FILE_BYTES)
    except (OSError, UserError, ValueError) as error:
        raise ImageProblem("error", reason(error)) from error


def read_file(uri: str, limit: int | None = None) -> bytes:
    """The bytes of a file of the user, or of a part of one, that is no image.

    Args:
        uri: of the file.
        limit: bytes that it may have; None: any number.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, or is larger than the limit.
    """
    member = parse_member(uri)
    if member is None:
        return storage.read_bytes(uri, limit)
    try:
        data = read_member(member)
    except ImageProblem as problem:
        raise OSError(problem.reason) from None
    if limit is not None and len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def _read_local(uri: str, roots: Sequence[str] | None = None) -> bytes:
    # O_NONBLOCK: opening a pipe that nobody writes to would block forever.
    with os.fdopen(
        os.open(storage.local_path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
    ) as file:
        if roots is not None:
            received.check_opened(file.fileno(), uri, roots)
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageProblem("error", "not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageProblem(
                "error", f"too large ({status.st_size >> 20} MiB > limit {MAX_FILE_BYTES >> 20} MiB)"
            )
        return file.read()
