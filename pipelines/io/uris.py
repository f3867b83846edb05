"""URIs of files and folders as text: a path of this machine, file://, s3://, gs:// or a scheme of fsspec."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
# Object keys may hold "?", so only known options count as a query.
_QUERY = re.compile(r"\?((?:region|scheme|endpoint_override|allow_bucket_\w+|anonymous|retry_\w+)=.*)$")


def scheme(uri: str) -> str:
    """The lower-case scheme of a URI; "file" for a plain path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine's file system."""
    return scheme(uri) in {"file", "local"}


def display(uri: str) -> str:
    """The URI without credentials, for messages and logs."""
    return re.sub(r"//[^/@]*@", "//***@", uri)


def split_query(uri: str) -> tuple[str, str]:
    """A URI without its options, and the options with their "?"; a local path has no options."""
    query = None if is_local(uri) else _QUERY.search(uri)
    options = query.group(0) if query else ""
    return uri.removesuffix(options), options


def join(uri: str, *names: str) -> str:
    """`uri/name/...`; options behind a "?" stay at the end."""
    base, options = split_query(uri)
    folder = base if base.endswith("://") else base.rstrip("/") + "/"
    return folder + "/".join(names) + options


def without_scheme(uri: str) -> str:
    """What follows the scheme."""
    return _SCHEME.sub("", uri)


def local_path(uri: str) -> Path:
    """The absolute path of a plain path or a file:// URI."""
    path = unquote(without_scheme(uri)) if _SCHEME.match(uri) else uri
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 (resolve() would follow links)
