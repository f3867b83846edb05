"""YAML of a stranger: any text is read as plain values, or refused."""

from __future__ import annotations

from typing import Any

import yaml

MAX_BYTES = 1 << 20
"""Of a text: its reader takes seconds for each."""
_ERRORS = (
    *(yaml.YAMLError, RecursionError, ValueError, OverflowError),
    # What PyYAML's own readers of numbers and dates raise for an empty text or another one.
    *(IndexError, KeyError, AttributeError, TypeError),
)


def read_plain_yaml(text: str | bytes) -> Any:
    """The content of a YAML file.

    Raises:
        ValueError: not YAML, too long, or values that are none.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{len(text)} bytes of YAML (allowed: at most {MAX_BYTES})")
    try:
        return yaml.safe_load(text)
    except _ERRORS:
        raise ValueError("not YAML") from None
