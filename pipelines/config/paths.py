"""Paths of a configuration that must stay valid in a process with another working directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar, cast

from segray.pipelines.config.schema import Config, keys

T = TypeVar("T", bound=Config)

_FOLDERS = {"DIR", "FOLDER", "FOLDER,..."}


def joins_cluster(config: Config) -> bool:
    """Whether a run with this configuration joins a cluster that is already running."""
    if "address" not in type(config).model_fields:
        return False
    return bool(getattr(config, "address", None) or os.environ.get("RAY_ADDRESS"))


def absolute(config: T) -> T:
    """The same configuration with absolute paths: of folders, and of files that exist here.

    What the user has not set stays so (`model_fields_set`).
    """
    tree = config.model_dump()
    for name, key in keys(type(config)).items():
        *sections, last = name.split(".")
        branch = tree
        for part in sections:
            branch = branch[part]
        value = branch[last]
        if isinstance(value, tuple) and key.metavar in _FOLDERS:
            branch[last] = tuple(map(_absolute, value))
        elif isinstance(value, str) and (key.metavar in _FOLDERS or is_file(value)):
            branch[last] = _absolute_sources(value) if key.metavar == "FOLDER" else _absolute(value)
    return _set_as(type(config).model_validate(tree), config)


def _set_as(config: T, other: T) -> T:
    """The configuration with the keys as set that are so in another one."""
    values = {
        name: _set_as(value, getattr(other, name)) if isinstance(value, Config) else value
        for name, value in config
    }
    return cast("T", type(config).model_construct(_fields_set=set(other.model_fields_set), **values))


def is_file(value: str) -> bool:
    """Whether a text is the path of an existing file: cat.txt or ./cat, but not cat, a class name."""
    return bool("/" in value or Path(value).suffix) and "://" not in value and Path(value).is_file()


def _absolute_sources(value: str) -> str:
    from segray.pipelines.io.sources.kinds import sources_of

    return ",".join(map(_absolute, sources_of(value)))


def _absolute(value: str) -> str:
    from segray.pipelines.io import storage

    if not storage.is_local(value) or "://" in value:
        return value
    return str(storage.local_path(value))
