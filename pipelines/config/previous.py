"""Keys and values that an earlier version wrote, under the names that they have now.

An old name in a user's configuration is refused, and the message has the new name. What an earlier version
stored (config.yaml, the provenance of a label set) is translated where it is read, so that it can be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TypeVar

V = TypeVar("V")

KEYS = {"image.matte": "image.background_color", "search.clip_weights": "data.clip_weights"}
"""Old dotted key: new dotted key."""

_BUILTIN_WEIGHTS = {
    "builtin:picture_book_clip": "builtin:clip",
    "builtin:picture_book_sam": "builtin:sam",
}

VALUES: dict[str, dict[str, str]] = {
    **{f"{section}.model": {"picture_book": "builtin"} for section in ("sam", "clip")},
    "network.name": {"picture_book": "builtin"},
    **{f"{section}.weights": _BUILTIN_WEIGHTS for section in ("sam", "clip", "network")},
}
"""New dotted key: {old value: new value}."""

IMPLICIT = {"sam.precision": "fp32", "clip.precision": "fp32"}
"""Dotted key that an earlier version did not have, in a section that it had: what it did then."""


def current_values(values: Mapping[str, V]) -> dict[str, V | str]:
    """Stored values by dotted key, as in `config.loading.identity`, with today's names."""
    renamed = {KEYS.get(key, key): value for key, value in values.items()}
    return {key: current_value(key, value) for key, value in renamed.items()}


def current_tree(tree: V) -> V:
    """The nested sections of a stored config.yaml, with today's names; anything else stays unchanged."""
    result = deepcopy(tree)
    for old, new in KEYS.items():
        section, target, leaf = _section(result, old), _section(result, new), old.rpartition(".")[2]
        if section is not None and target is not None and leaf in section:
            target[new.rpartition(".")[2]] = section.pop(leaf)
    for key in VALUES:
        _rename_value(result, key)
    return result


def current_provenance(record: V) -> V:
    """The provenance of a label set (`engine.provenance`), with today's names; {} stays {}."""
    result = deepcopy(record)
    if config := _section(result, "config."):
        renamed = current_values(config)
        sections = {key.partition(".")[0] for key in renamed if "." in key}
        implicit = {key: value for key, value in IMPLICIT.items() if key.partition(".")[0] in sections}
        config.clear()
        config.update(implicit | renamed)
    for key in ("sam.model", "clip.model", "clip.weights"):
        _rename_value(result, key)
    return result


def current_value(key: str, value: V) -> V | str:
    """The stored value of a dotted key, with today's name."""
    return VALUES.get(key, {}).get(value, value) if isinstance(value, str) else value


def _rename_value(tree: object, key: str) -> None:
    section, leaf = _section(tree, key), key.rpartition(".")[2]
    if section is not None and leaf in section:
        section[leaf] = current_value(key, section[leaf])


def _section(tree: object, key: str) -> dict[str, object] | None:
    """The mapping that holds the last part of a dotted key; None if there is none."""
    branch = tree
    for part in key.split(".")[:-1]:
        branch = branch.get(part) if isinstance(branch, dict) else None
    return branch if isinstance(branch, dict) else None
