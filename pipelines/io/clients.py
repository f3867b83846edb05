"""The fsspec file system behind a URI, with the options that the URI carries."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

import fsspec
from fsspec import AbstractFileSystem
from pyarrow import fs as pa_fs

from segray.models.messages import first_line
from segray.pipelines.errors import UserError
from segray.pipelines.io.redirects import client_options
from segray.pipelines.io.uris import (
    display,
    has_secret_option,
    is_chained,
    is_local,
    local_path,
    scheme,
    split_query,
    without_scheme,
)

_WEB = {"http", "https"}
_ALLOWED = "a path, file://, s3://, gs:// or a scheme of fsspec"
_PASSWORD = re.compile(r"[^/@]*:[^/@]*@")
_KEYS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in the environment",
    "gcs": "set GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth application-default login",
}


def open_storage(uri: str) -> tuple[AbstractFileSystem, str]:
    """File system and path of a local path, file://, s3://, gs:// or any scheme that fsspec knows.

    Object keys are used unchanged, not percent-decoded. Behind a "?" s3:// and gs:// take region=,
    endpoint_override=, scheme= and anonymous=. What stands in a URI is stored and shown, so it takes no keys.

    Raises:
        UserError: unknown scheme, a chain of them, a missing package, an unknown option, no bucket, or a key.
    """
    if is_chained(uri):
        raise UserError(f"{display(uri)}: chained URIs (::) are refused; allowed: {_ALLOWED}")
    if is_local(uri):
        return fsspec.filesystem("file"), str(local_path(uri))
    name = scheme(uri)
    if name not in _STORES:
        return _open_other(uri)
    extra, client_options = _STORES[name]
    plain, query = split_query(uri)
    bucket, _, key = without_scheme(plain).partition("/")
    if "@" in bucket or ":" in bucket:
        raise UserError(f"{display(uri)}: keys inside URIs are refused; {_KEYS[extra]}")
    if not bucket:
        raise UserError(f"{display(uri)}: no bucket; write {name}://BUCKET/FOLDER")
    options = client_options(dict(parse_qsl(query[1:])), uri)
    return _open_store(uri, name, extra, options), f"{bucket}/{key}".rstrip("/")


def arrow_storage(uri: str) -> tuple[pa_fs.FileSystem, str]:
    """As `open_storage`, for Ray, which wants a file system of pyarrow."""
    client, path = open_storage(uri)
    if is_local(uri):
        return pa_fs.LocalFileSystem(), path
    return pa_fs.PyFileSystem(pa_fs.FSSpecHandler(client)), path


def _open_store(uri: str, name: str, extra: str, options: Mapping[str, object]) -> AbstractFileSystem:
    try:
        return fsspec.filesystem(name, use_listings_cache=False, **options)
    except ImportError as error:
        advice = f"install the package: pip install 'segray[{extra}]'"
        raise UserError(f"{display(uri)}: {name}:// needs {_package(extra)}; {advice}") from error


def _open_other(uri: str) -> tuple[AbstractFileSystem, str]:
    if has_secret_option(uri):
        advice = "download the files first"
        raise UserError(f"{display(uri)}: signatures and keys inside URIs are refused; {advice}")
    if _PASSWORD.match(without_scheme(uri)):
        advice = f"set FSSPEC_{scheme(uri).upper()}_PASSWORD, or what else its client reads"
        raise UserError(f"{display(uri)}: passwords inside URIs are refused; {advice}")
    try:
        web = {"client_kwargs": client_options()} if scheme(uri) in _WEB else {}
        client, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, **web)
    except ImportError as error:
        raise UserError(f"{display(uri)}: {first_line(error)}") from error
    except ValueError as error:
        message = f"{display(uri)}: unknown scheme {scheme(uri)}://; allowed: {_ALLOWED}"
        raise UserError(message) from error
    return client, str(path)


def _package(extra: str) -> str:
    return {"s3": "s3fs", "gcs": "gcsfs"}[extra]


def _s3_options(query: dict[str, str], uri: str) -> dict[str, object]:
    # The endpoint of the environment is named here too, as fsspec shares a client between equal options.
    endpoint = _endpoint(query) or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    client = {"endpoint_url": endpoint, "region_name": query.pop("region", None)}
    options: dict[str, object] = {
        "client_kwargs": {name: value for name, value in client.items() if value},
        # `storage.with_retries` repeats what fails.
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }
    if _anonymous(query):
        options["anon"] = True
    _refuse_rest(query, uri)
    return options


def _gcs_options(query: dict[str, str], uri: str) -> dict[str, object]:
    options: dict[str, object] = {}
    if endpoint := _endpoint(query):
        options["endpoint_url"] = endpoint
    if _anonymous(query):
        options["token"] = "anon"  # noqa: S105  gcsfs's name for no token
    _refuse_rest(query, uri)
    return options


def _endpoint(query: dict[str, str]) -> str:
    host, protocol = query.pop("endpoint_override", ""), query.pop("scheme", "https")
    return host if "://" in host or not host else f"{protocol}://{host}"


def _anonymous(query: dict[str, str]) -> bool:
    return query.pop("anonymous", "").lower() in {"1", "true"}


def _refuse_rest(query: Mapping[str, str], uri: str) -> None:
    if query:
        allowed = "region, endpoint_override, scheme, anonymous"
        raise UserError(f"{display(uri)}: unknown option {next(iter(query))} (allowed: {allowed})")


_ClientOptions = Callable[[dict[str, str], str], dict[str, object]]
_S3: tuple[str, _ClientOptions] = ("s3", _s3_options)
_GCS: tuple[str, _ClientOptions] = ("gcs", _gcs_options)
_STORES = {"s3": _S3, "s3a": _S3, "gs": _GCS, "gcs": _GCS}
"""The extra of segray that installs the client, and how its options are made from a URI."""
