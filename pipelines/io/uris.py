"""URIs of files and folders as text: a path of this machine, file://, s3://, gs:// or a scheme of fsspec."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import unquote_to_bytes

T = TypeVar("T")

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
# Object keys may hold "?", so only known options count as a query.
_QUERY = re.compile(r"\?((?:region|scheme|endpoint_override|allow_bucket_\w+|anonymous|retry_\w+)=.*)$")
_KEYS_ARE_TEXT = {"file", "local", "s3", "s3a", "gs", "gcs"}
"""Schemes whose paths `clients.open_storage` never hands to fsspec's reader of chains."""
# Each repetition has an end: texts of strangers are searched, in time that must not grow with their square.
_USER_INFO = re.compile(r"://(?:[A-Z0-9]{16,128}:[^\s@]{16,512}|[^/\s]*)@")
_SECRET_OPTION = re.compile(
    r"((?:[?&;#]|%(?:25){0,3}(?:3F|26|23))"
    r"(?:x-(?:amz|goog)-[\w-]{1,40}|[\w-]{0,40}(?:signature|secret|token|passw(?:or)?d|credential|(?:api|access|account)[_-]?key)[\w-]{0,40}"
    r"|(?:auth|oauth|bearer|passphrase|hmac|hdn)[\w-]{0,40}|googleaccessid|key-pair-id|policy|expires"
    r"|code|key|jwt|pwd|sig|se|st|sp|sv|sr|spr|sip|sdd|sk[a-z]{1,3})"
    r"(?:\[\w{0,20}\])?(?:=|%(?:25){0,3}3D))[\"'<]?[^&;\s#\"'<>]+",
    re.IGNORECASE,
)


def scheme(uri: str) -> str:
    """The lower-case scheme of a URI; "file" for a plain path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def has_scheme(uri: str) -> bool:
    """Whether the text is a URI, and not a plain path."""
    return _SCHEME.match(uri) is not None


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine's file system."""
    return scheme(uri) in {"file", "local"}


def is_chained(uri: str) -> bool:
    """Whether fsspec would read a chain of file systems from the text, such as `zip://a.png::s3://b/c.zip`."""
    first, *others = uri.split("::")
    return bool(others) and (scheme(first) not in _KEYS_ARE_TEXT or any("://" in part for part in others))


def redacted(text: str) -> str:
    """Text without the secrets of its URIs: what stands before "@", signatures and keys behind "?".

    Everything that is stored or shown goes through here. Applying it twice changes nothing.
    """
    return _SECRET_OPTION.sub(r"\1***", _USER_INFO.sub("://***@", text))


def redacted_tree(value: T) -> T:
    """`redacted`, of every text in nested lists, tuples and mappings."""
    return cast("T", _redacted_tree(value))


def _redacted_tree(value: object) -> object:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {name: _redacted_tree(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_redacted_tree, value))
    return value


def has_secret_option(uri: str) -> bool:
    """Whether a signature or a key stands among the options of a URI."""
    return _SECRET_OPTION.search(uri) is not None


def display_all(uris: str | Sequence[str]) -> str:
    """`display`, of one URI or several."""
    return display(uris) if isinstance(uris, str) else ", ".join(map(display, uris))


def display(uri: str) -> str:
    """A URI for messages and logs: `redacted`, on one line, control characters escaped."""
    text = redacted(uri)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


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


def parent(uri: str) -> str:
    """The folder of a file; options behind a "?" stay at the end."""
    if is_local(uri):
        return os.path.dirname(local_name(uri))  # noqa: PTH120 (see local_name)
    base, options = split_query(uri)
    return f"{base.rstrip('/').rpartition('/')[0]}{options}"


def without_scheme(uri: str) -> str:
    """What follows the scheme."""
    return _SCHEME.sub("", uri)


def local_path(uri: str) -> Path:
    """The absolute path of a plain path or a file:// URI, whose %XX may be bytes that are no UTF-8."""
    return Path(local_name(uri))


def local_name(uri: str) -> str:
    """`local_path` as text: for millions of rows, a Path takes too long."""
    path = os.fsdecode(unquote_to_bytes(os.fsencode(without_scheme(uri)))) if has_scheme(uri) else uri
    whole = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 (resolve() would follow links)
    # POSIX lets two slashes in front stand; they are the same place.
    return f"/{whole.lstrip('/')}"
