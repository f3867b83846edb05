"""Fetch weights over https: from known hosts, up to a number of bytes."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

HOSTS = (
    "dl.fbaipublicfiles.com",
    "download.pytorch.org",
    "openaipublic.azureedge.net",
    "huggingface.co",
    "*.huggingface.co",
    "*.hf.co",
    "github.com",
    "*.githubusercontent.com",
)
"""Hosts that a download may be redirected to, besides the one that the user names."""
HOSTS_KEY = "SEGRAY_WEIGHT_HOSTS"
"""Environment variable with further ones, separated by commas."""
MAX_BYTES = 16 << 30
"""Bytes of the largest file that is fetched."""

_CHUNK = 1 << 20
_TIMEOUT_S = 30


def fetch(url: str, path: Path, sha256: str | None) -> None:
    """Write a URL's file to a new path.

    Raises:
        ValueError: not https, redirected elsewhere, too large, cut, or with another checksum.
        OSError: not reachable, or not writable.
        http.client.HTTPException: what answers does not speak HTTP.
    """
    with _opener(url).open(url, timeout=_TIMEOUT_S) as response, path.open("xb") as file:
        length = _length(response.headers.get("Content-Length"))
        if length is not None and length > MAX_BYTES:
            raise ValueError(f"it has {length} bytes (allowed: at most {MAX_BYTES})")
        digest, n_bytes = _copy(response, file)
        file.flush()
        os.fsync(file.fileno())
    if length is not None and n_bytes != length:
        raise ValueError(f"the connection broke after {n_bytes} of {length} bytes")
    if sha256 is not None and digest != sha256.lower():
        raise ValueError(f"its sha256 is {digest}, expected {sha256}")


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Within it the system ends each write beyond so many bytes of a file, whatever client writes it.

    For clients that announce a size and then take all that a server sends. Holds for the whole process.

    Raises:
        ValueError: such a write was ended.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limits = [n_bytes, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(limits), hard))
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ValueError(f"it has more than {n_bytes} bytes, which is the limit") from error
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def plain_hub() -> Iterator[None]:
    """Within it Hugging Face's client downloads by HTTP alone, by its own switch.

    Its Xet protocol puts files together in native code, in pieces that no limit here sees. Holds for the
    whole process.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, named: str) -> None:
        self._named = named

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """As urllib's, to https and known hosts alone."""
        _check(newurl, self._named)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(url: str) -> urllib.request.OpenerDirector:
    """An opener without the handlers of http, ftp, file and data; the proxy is that of the environment."""
    named = urlsplit(url).hostname or ""
    _check(url, named)
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(named),
    ):
        opener.add_handler(handler)
    return opener


def _check(url: str, named: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise ValueError(f"{parts.scheme}:// is not encrypted (allowed: https://)")
    host = parts.hostname or ""
    allowed = (named, *HOSTS, *filter(None, os.environ.get(HOSTS_KEY, "").split(",")))
    if not host or not any(_matches(host, pattern.strip().lower()) for pattern in allowed):
        raise ValueError(f"it leads to the host {host!r}, which is not allowed; {HOSTS_KEY}={host} allows it")


def _matches(host: str, pattern: str) -> bool:
    return host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _length(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"the server tells a length of {text[:40]!r}")
    return int(text)


def _copy(source: IO[bytes], target: IO[bytes]) -> tuple[str, int]:
    """Copy a stream; (hex SHA-256, number of bytes)."""
    digest, n_bytes = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        n_bytes += target.write(chunk)
        if n_bytes > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes, which is the limit")
    return digest.hexdigest(), n_bytes
