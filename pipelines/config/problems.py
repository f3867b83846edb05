"""What is wrong with a configuration, in one line a key: which key, which value, what is allowed."""

from __future__ import annotations

from difflib import get_close_matches
from reprlib import Repr
from typing import Any

from pydantic_core import ErrorDetails

from segray.pipelines.config.schema import Config, Key, keys

# A recursive or multiplied YAML alias has an endless repr, hence the limits of reprlib.
_short = Repr()
_short.maxstring = _short.maxother = 100
_short.maxlevel = 2


def unknown_key(model: type[Config], name: str, parent: str) -> str:
    """The line for a key that is none, with the likeliest one or with those that `parent` holds."""
    name = name if name.isprintable() and len(name) <= 100 else _quoted(name)
    near = _nearest(list(keys(model)), name, parent)
    if near:
        return f"unknown key {name}; did you mean {' or '.join(near)}?"
    prefix = f"{parent}." if parent else ""
    inside = dict.fromkeys(
        key[len(prefix) :].partition(".")[0] for key in keys(model) if key.startswith(prefix)
    )
    return f"unknown key {name} (allowed{f' in {parent}' if parent else ''}: {', '.join(inside)})"


def no_section(model: type[Config], name: str, value: Any) -> str:
    """The line for a section that was given a value."""
    inside = [key for key in keys(model) if key.startswith(f"{name}.")]
    return f"{name}: holds keys of its own, not {_quoted(value)} (allowed: {', '.join(inside)})"


def explain(model: type[Config], errors: list[ErrorDetails]) -> list[str]:
    """The lines for what pydantic found."""
    return [line for details in errors if (line := _line(model, details))]


def _nearest(known: list[str], name: str, parent: str) -> list[str]:
    """The keys likely meant: the same last word elsewhere, else a like word beside, else the parent."""
    prefix = f"{parent}." if parent else ""
    same = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    if same and (parent or "." not in name):
        return same[:2]
    beside = {key.removeprefix(prefix): key for key in known if key.startswith(prefix)}
    near = get_close_matches(name.removeprefix(prefix), beside, n=1)
    return [beside[near[0]]] if near else [parent] * (parent in known)


def _line(model: type[Config], details: ErrorDetails) -> str:
    """One line, or nothing for what another line says already."""
    key, where, rest = _locate(model, details["loc"])
    value, kind = details.get("input"), details["type"]
    if key is None or kind == "value_error":
        # What a whole verb's configuration refuses names its keys itself.
        return f"{where}: {details['msg']}".replace("Value error, ", "").removeprefix(": ")
    if key.kind == "text or list" and _other_branch(rest, value, kind):
        return ""
    allowed = f" (allowed: {key.allowed})" if key.allowed else ""
    if kind == "missing":
        return (
            f"{key.name}: too few values{allowed}"
            if rest
            else f"{where}: required, give {where}={key.metavar}"
        )
    if kind == "too_long":
        return f"{where}: too many values{allowed}"
    if value is None:
        return f"{where}: null is not allowed (allowed: {key.allowed or _wanted(key, kind)})"
    return f"{where}: {_complaint(key, where, value, kind)}{allowed}"


def _complaint(key: Key, where: str, value: Any, kind: str) -> str:
    if kind == "string_too_short":
        return f"empty; give {where}={key.metavar}" if where == key.name else "empty; a name is missing here"
    if kind == "literal_error":
        near = get_close_matches(str(value), key.choices, n=1)
        return f"{_quoted(value)} is none of its choices" + (f"; did you mean {near[0]}?" if near else "")
    if kind.startswith(("greater_than", "less_than")):
        return f"{_quoted(value).strip(chr(39))} is out of range"
    if kind == "string_pattern_mismatch":
        return f"{_quoted(value)} does not fit"
    wanted = _wanted(key, kind)
    return f"{_quoted(value)} is not {wanted if wanted.startswith(('text', 'true')) else f'a {wanted}'}"


def _other_branch(rest: tuple[int | str, ...], value: Any, kind: str) -> bool:
    """pydantic tells of every branch of "text or list": True for the one that the value did not take."""
    in_list = str(rest[0]).startswith("tuple") if rest else True
    return (kind == "tuple_type" and isinstance(value, str)) or (not in_list and not isinstance(value, str))


def _locate(model: type[Config], loc: tuple[int | str, ...]) -> tuple[Key | None, str, tuple[int | str, ...]]:
    """The key that an error stands at (None: a section), its name in print, and where inside its value."""
    known = keys(model)
    for end in range(1, len(loc) + 1):
        name = ".".join(str(part) for part in loc[:end])
        if name in known:
            rest = loc[end:]
            entry = f".{rest[0]}" if rest and known[name].kind == "mapping" else ""
            return known[name], f"{name}{entry}" + "".join(f"[{p}]" for p in rest if isinstance(p, int)), rest
    return None, ".".join(str(part) for part in loc), ()


def _wanted(key: Key, kind: str) -> str:
    """What pydantic's `kind` of error asked for: an item of a list has another type than its key."""
    for start, words in {"int": "whole number", "float": "number", "string": "text"}.items():
        if kind.startswith(start):
            return words
    return "list" if key.kind == "mapping" and kind == "tuple_type" else key.kind


def _quoted(value: Any) -> str:
    return _short.repr(value)
