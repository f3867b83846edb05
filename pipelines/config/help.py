"""The keys of a configuration as text, for `--help` and for the reference."""

from __future__ import annotations

import textwrap

from segray.pipelines.config.schema import Config, Key, keys


def help_text(model: type[Config], width: int = 100) -> str:
    """Every key with its type, default and help, in two columns of a terminal."""
    known = keys(model)
    indent = min(34, 4 + max(map(len, known)))
    return "\n".join(_entry(key, indent, width) for key in known.values())


def type_text(key: Key) -> str:
    """The values that a key accepts: "whole number, 1 to 256, or null"."""
    kind = "one of" if key.kind == "choice" else key.kind
    separator = " " if key.kind == "choice" else ", "
    return (f"{kind}{separator}{key.allowed}" if key.allowed else kind) + (
        ", or null" if key.nullable else ""
    )


def default_text(key: Key) -> str:
    """The default of a key as a user would write it, or "required"."""
    return "required" if key.required else _value(key.default)


def _value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return ",".join(_value(item) for item in value)
    return str(value) if value != {} else "{}"


def _entry(key: Key, indent: int, width: int) -> str:
    default = "required" if key.required else f"default: {default_text(key)}"
    lines = _wrap(f"{type_text(key)} [{default}]", width - indent)
    lines += _wrap(key.help, width - indent)
    name = f"  {key.name}"
    head = name.ljust(indent) + lines.pop(0) if len(name) < indent else name
    return "\n".join([head, *(" " * indent + line for line in lines)])


def _wrap(text: str, width: int) -> list[str]:
    # No breaks inside words: addresses and model names must stay fit to copy.
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
