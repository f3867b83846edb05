"""What is wrong with a configuration, in one line per key: which key, which value, what is allowed."""

from __future__ import annotations

from difflib import get_close_matches
from reprlib import Repr

from pydantic_core import ErrorDetails

from segray.pipelines.config import previous
from segray.pipelines.config.schema import Config, Key, keys

# A recursive or multiplied YAML alias has an endless repr, hence the limits of reprlib.
_short = Repr()
_short.maxstring = _short.maxother = 100
_short.maxlevel = 2


def unknown_key(model: type[Config], name: str, parent: str) -> str:
    """The line for a key that does not exist: its new name, the most similar key, or the keys of `parent`."""
    name = name if name.isprintable() and len(name) <= 100 else _quoted(name)
    new = previous.KEYS.get(name)
    if new in keys(model):
        return f"unknown key {name}; it is now {new}"
    near = _nearest(list(keys(model)), name, parent)
    if near:
        return f"unknown key {name}; did you mean {' or '.join(near)}?"
    prefix = f"{parent}." if parent else ""
    inside = dict.fromkeys(
        key[len(prefix) :].partition(".")[0] for key in keys(model) if key.startswith(prefix)
    )
    return f"unknown key {name} (allowed{f' in {parent}' if parent else ''}: {', '.join(inside)})"


def not_a_section(model: type[Config], name: str, value: object) -> str:
    """The line for a section that was given a value."""
    inside = [key for key in keys(model) if key.startswith(f"{name}.")]
    return f"{name}: is a section with keys, not {_quoted(value)} (allowed: {', '.join(inside)})"


def explain(model: type[Config], errors: list[ErrorDetails]) -> list[str]:
    """The lines for the errors that pydantic reports."""
    return [line for details in errors if (line := _line(model, details))]


def _nearest(known: list[str], name: str, parent: str) -> list[str]:
    """The keys that were probably meant: the same leaf in another section, a similar leaf, or the parent."""
    prefix = f"{parent}." if parent else ""
    same = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    if same and (parent or "." not in name):
        return same[:2]
    beside = {key.removeprefix(prefix): key for key in known if key.startswith(prefix)}
    near = get_close_matches(name.removeprefix(prefix), beside, n=1)
    return [beside[near[0]]] if near else [parent] * (parent in known)


def _line(model: type[Config], details: ErrorDetails) -> str:
    """One line; empty where another line says the same."""
    key, where, rest = _locate(model, details["loc"])
    value, kind = details.get("input"), details["type"]
    if key is None or kind == "value_error":
        # A validator of a whole configuration names its keys itself.
        return f"{where}: {details['msg']}".replace("Value error, ", "").removeprefix(": ")
    if key.kind == "text or list" and _other_branch(rest, value, kind):
        return ""
    if kind == "missing" and not rest:
        return f"{where}: required, give {where}={key.metavar}"
    if kind == "literal_error" and value is not None:
        return f"{where}: {_not_a_choice(key, value)}"
    allowed = f" (allowed: {key.allowed})" if key.allowed else ""
    if kind == "missing":
        return f"{key.name}: too few values{allowed}"
    if kind == "too_long":
        return f"{where}: too many values{allowed}"
    if value is None:
        return f"{where}: null is not allowed (allowed: {key.allowed or _wanted(key, kind)})"
    return f"{where}: {_complaint(key, where, value, kind)}{allowed}"


def _not_a_choice(key: Key, value: object) -> str:
    near = get_close_matches(str(value), key.choices, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"must be one of {key.allowed}, not {_quoted(value)}{hint}"


def _complaint(key: Key, where: str, value: object, kind: str) -> str:
    if kind == "string_too_short":
        return f"empty; give {where}={key.metavar}" if where == key.name else "empty; a name is missing here"
    if kind.startswith(("greater_than", "less_than")):
        return f"{_quoted(value).strip(chr(39))} is out of range"
    if kind == "string_pattern_mismatch":
        return f"{_quoted(value)} is not valid"
    wanted = _wanted(key, kind)
    return f"{_quoted(value)} is not {wanted if wanted.startswith(('text', 'true')) else f'a {wanted}'}"


def _other_branch(rest: tuple[int | str, ...], value: object, kind: str) -> bool:
    """pydantic reports every branch of "text or list": True for the branch that does not match the value."""
    in_list = str(rest[0]).startswith("tuple") if rest else True
    return (kind == "tuple_type" and isinstance(value, str)) or (not in_list and not isinstance(value, str))


def _locate(model: type[Config], loc: tuple[int | str, ...]) -> tuple[Key | None, str, tuple[int | str, ...]]:
    """The key with the error (None: a section), its name in print, and the place inside its value."""
    known = keys(model)
    for end in range(1, len(loc) + 1):
        name = ".".join(str(part) for part in loc[:end])
        if name in known:
            rest = loc[end:]
            entry = f".{rest[0]}" if rest and known[name].kind == "mapping" else ""
            return known[name], f"{name}{entry}" + "".join(f"[{p}]" for p in rest if isinstance(p, int)), rest
    return None, ".".join(str(part) for part in loc), ()


def _wanted(key: Key, kind: str) -> str:
    """What pydantic's `kind` of error expected: an item of a list has another type than its key."""
    for start, noun in {"int": "whole number", "float": "number", "string": "text"}.items():
        if kind.startswith(start):
            return noun
    return "list" if key.kind == "mapping" and kind == "tuple_type" else key.kind


def _quoted(value: object) -> str:
    return _short.repr(value)
