"""What a row of a manifest may name: files below the folders that the user named, and nothing else.

A manifest is passed between people; the command line and the configuration are the user's own words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from segray.pipelines.errors import UserError
from segray.pipelines.io.members import split_member
from segray.pipelines.io.uris import (
    display,
    has_scheme,
    is_chained,
    is_local,
    local_name,
    parent,
    scheme,
    split_query,
    without_scheme,
)

ROOTS_KEY = "image.roots"
_SAME = {"s3a": "s3", "gcs": "gs", "local": "file"}
_ROWS = ("file", "s3", "gs")
# Even under root=/: what is read there is no stored file, but the state of this machine and its processes.
_SYSTEM = ("/proc", "/sys", "/dev")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 (a place of images, not of temporary files)


def check_received_uri(uri: str, roots: Sequence[str]) -> str:
    """The URI that a row names, if it is below one of the roots, with the options of that root.

    The one decision for each row of each source. A row may be a plain path, or a URI of file, s3, gs or of
    the scheme of a root. It holds no chain, credentials, ".." or options other than the root's. Symlinks
    are checked when the file is opened (`check_links`).

    Args:
        uri: absolute; a relative path is made so by `absolute_uri`.
        roots: folders or files of the user, as `absolute_roots` gives them.

    Raises:
        UserError: it is not allowed; names the URI and the roots.
    """
    file, part = split_member(uri)
    problem = _problem(file, {_scheme(root) for root in roots})
    if problem:
        raise UserError(_refusal(uri, problem, roots))
    allowed = (_below(file, root) for root in roots)
    found = next((name for name in allowed if name is not None), None)
    if found is None:
        raise UserError(_refusal(uri, "is not below an allowed folder", roots))
    return found + part


def below(uri: str, roots: Iterable[str]) -> bool:
    """Whether a file is in one of the folders."""
    return root_of(split_member(uri)[0], roots) is not None


def root_of(uri: str, roots: Iterable[str]) -> str | None:
    """The first of the folders that a file is in; None if it is in none."""
    return next((root for root in roots if _below(uri, root) is not None), None)


def check_links(uri: str, roots: Sequence[str]) -> None:
    """Refuse a local file that a symlink on its path leads to from outside of all roots.

    Raises:
        UserError: names the file and the roots.
    """
    if not is_local(uri):
        return
    _check_target(os.path.realpath(local_name(split_member(uri)[0])), uri, roots)


def check_opened(descriptor: int, uri: str, roots: Sequence[str]) -> None:
    """`check_links`, of a file that is open: a link may have taken its place since its name was checked.

    Does nothing on systems that do not tell which file is open.

    Raises:
        UserError: names the file and the roots.
    """
    try:
        target = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        return
    _check_target(target, uri, roots)


def _check_target(target: str, uri: str, roots: Sequence[str]) -> None:
    if not any(is_local(root) and _inside(target, os.path.realpath(local_name(root))) for root in roots):
        raise UserError(_refusal(uri, "is a symlink that leaves the allowed folders", roots))


def absolute_uri(uri: str, manifest: str) -> str:
    """What a row names; a relative path starts at the manifest's folder."""
    if has_scheme(uri) or uri.startswith("/") or is_chained(uri):
        return uri
    folder = parent(manifest)
    if is_local(manifest):
        # Not local_path: there "~" at the front would be the user's home.
        return os.path.abspath(f"{folder}/{uri}")  # noqa: PTH100 (resolve() would follow links)
    base, options = split_query(folder)
    return f"{base}/{uri.removeprefix('./')}{options}"


def bucket(uri: str) -> str:
    """The root of the object store, or of the file system, that a URI is in, with its options."""
    if is_local(uri):
        return "/"
    base, options = split_query(uri)
    return f"{scheme(uri)}://{without_scheme(base).partition('/')[0]}{options}"


def absolute_roots(uris: Iterable[str]) -> tuple[str, ...]:
    """The user's folders for processes with another working directory, each once."""
    names = (local_name(uri) if is_local(uri) else uri for uri in uris)
    return tuple(dict.fromkeys(names))


def _problem(uri: str, root_schemes: Iterable[str]) -> str | None:
    if is_chained(uri):
        return "is a chain of file systems (::)"
    if "\0" in unquote(uri):
        return "holds a null character"
    if not _is_encodable(uri):
        return "holds half a character (a lone surrogate)"
    name, rest = _scheme(uri), without_scheme(uri)
    if name not in {*_ROWS, *root_schemes}:
        return f"has the scheme {name}://"
    if name == "file":
        return "is a file:// URI with a host" if has_scheme(uri) and not rest.startswith("/") else None
    if name in _ROWS and "@" in rest.partition("/")[0]:
        return "holds credentials"
    return "holds '.' or '..'" if _climbs(without_scheme(split_query(uri)[0])) else None


def _is_encodable(name: str) -> bool:
    """False for what JSON may hold and no file system takes; bytes that are no text stay allowed."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _climbs(path: str) -> bool:
    """Whether a part of the path is "." or "..", also for a server that decodes %XX once or more often."""
    while (decoded := unquote(path)) != path:
        path = decoded
    # Some servers take what follows a ";" for no part of the name.
    return any(part.partition(";")[0] in {".", ".."} for part in re.split(r"[/\\]", path))


def _scheme(uri: str) -> str:
    name = scheme(uri)
    return _SAME.get(name, name)


def _below(uri: str, root: str) -> str | None:
    """The URI with the root's options, or None where it is not below the root."""
    if _scheme(uri) != _scheme(root):
        return None
    if is_local(uri):
        path, folder = local_name(uri), local_name(root)
        # A folder has several names where a link leads to it.
        inside = _inside(path, folder) or _inside(os.path.realpath(path), os.path.realpath(folder))
        return uri if inside else None
    (plain, options), (folder, own) = split_query(uri), split_query(root)
    inside = _within(without_scheme(plain), without_scheme(folder))
    return plain + own if inside and options in {"", own} else None


def _inside(path: str, folder: str) -> bool:
    """`_within`, of absolute local paths; only a root in a system folder allows files of it."""
    if not _within(path, folder):
        return False
    system = any(_within(path, name) and not _within(folder, name) for name in _SYSTEM)
    return not system or _within(path, _SHARED_MEMORY)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _refusal(uri: str, problem: str, roots: Sequence[str]) -> str:
    shown = ", ".join(display(root) for root in roots[:3]) + (", ..." if len(roots) > 3 else "")
    return f"{display(uri)[:300]} {problem}; allowed: files below {shown}, others with {ROOTS_KEY}=FOLDER,..."
