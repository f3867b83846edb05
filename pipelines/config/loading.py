"""Load, print and fingerprint a configuration: a YAML file, then key=value words, checked against a model.

All that is wrong is told at once, one line a key, before anything runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from segray.pipelines.config.problems import explain, no_section, unknown_key
from segray.pipelines.config.schema import Config, Key, keys, section
from segray.pipelines.config.source import SWITCHED_ON, parse_flow, parse_override, read_yaml
from segray.pipelines.errors import UserError

T = TypeVar("T", bound=Config)


def load(model: type[T], source: str | None, overrides: Sequence[str] = ()) -> T:
    """A checked configuration.

    Args:
        model: what to fill.
        source: a YAML file, or None.
        overrides: `a.b=c` words, which win over the file; of two for one key the last wins. Commas make a
            list where the key holds one, `null` is no value, `[...]` and `{...}` are YAML.

    Raises:
        UserError: one line a problem: unknown key, wrong type, out of range, missing, or not readable.
    """
    problems: list[str] = []
    tree: dict[str, Any] = {}
    for name, value in read_yaml(source).items() if source is not None else ():
        _put(tree, model, _name(name), value, problems)
    for word in overrides:
        try:
            name, value = parse_override(word)
            _put(tree, model, name, _written(keys(model).get(name), name, value), problems)
        except UserError as error:
            problems.append(str(error))
    try:
        config = model.model_validate(tree)
    except ValidationError as error:
        problems += explain(model, error.errors(include_url=False))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return config


def split_source(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The configuration file among the words of a command line, or None, and the other words."""
    source = next((word for word in words if "=" not in word and not word.startswith("-")), None)
    rest = list(words)
    if source is not None:
        rest.remove(source)
    return source, rest


def with_values(config: T, values: Mapping[str, str]) -> T:
    """The configuration with other values for some of its keys, written as in key=value words.

    Raises:
        UserError: no such key.
        ValidationError: a value that its key does not take.
    """
    tree: dict[str, Any] = config.model_dump(mode="json")
    model, problems = type(config), list[str]()
    for name, value in values.items():
        _put(tree, model, name, _written(keys(model).get(name), name, value), problems)
    if problems:
        raise UserError("\n".join(problems))
    return model.model_validate(tree)


def dump(config: Config) -> str:
    """The whole configuration, defaults included, as YAML that `load` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def identity(config: Config) -> dict[str, Any]:
    """The keys that shape what a run writes, by dotted name; two equal ones may share an output."""
    named = keys(type(config))
    values = _flat(type(config), config.model_dump(mode="json"), "")
    return {name: value for name, value in values if not named[name].run_only}


def config_hash(config: Config) -> str:
    """sha256 over `identity`: 64 hexadecimal digits. Where and how fast a run works does not change it."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()


def _flat(model: type[Config], values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        nested = section(field)
        if nested is None:
            yield f"{prefix}{name}", values[name]
        else:
            yield from _flat(nested, values[name], f"{prefix}{name}.")


def _written(key: Key | None, name: str, value: Any) -> Any:
    """The value of a key=value word: null, YAML in brackets where several values may stand, else text."""
    if value is SWITCHED_ON:
        if key is not None and key.kind != "true or false":
            raise UserError(f"{name}: give {name}={key.metavar}")
        return "true"
    if value in ("null", "~"):
        return None
    several = key is None or key.kind in ("list", "text or list", "mapping")
    return parse_flow(value, name) if several and value[:1] in ("[", "{") else value


def _put(tree: dict[str, Any], model: type[Config], name: str, value: Any, problems: list[str]) -> None:
    """Set a dotted key in the tree of values."""
    branch, here, path = tree, model, name.split(".")
    for depth, part in enumerate(path):
        field = here.model_fields.get(part)
        if field is None:
            problems.append(unknown_key(model, name, ".".join(path[:depth])))
            return
        nested = section(field)
        if nested is None:
            key = keys(model)[".".join(path[: depth + 1])]
            _put_value(branch, part, key, ".".join(path[depth + 1 :]), value, problems, model)
            return
        branch, here = branch.setdefault(part, {}), nested
    _put_section(tree, model, name, value, problems)


def _put_section(
    tree: dict[str, Any], model: type[Config], name: str, value: Any, problems: list[str]
) -> None:
    # A section whose lines are all commented out reads as null.
    if value is None:
        return
    if not isinstance(value, dict):
        problems.append(no_section(model, name, value))
        return
    for part, inner in value.items():
        _put(tree, model, f"{name}.{_name(part)}", inner, problems)


def _put_value(
    branch: dict[str, Any],
    part: str,
    key: Key,
    entry: str,
    value: Any,
    problems: list[str],
    model: type[Config],
) -> None:
    if not entry:
        branch[part] = _with_lists(key, value)
    elif key.kind == "mapping":
        entries = branch.get(part)
        branch[part] = {**(entries if isinstance(entries, dict) else {}), entry: _comma_list(value)}
    else:
        problems.append(unknown_key(model, f"{key.name}.{entry}", key.name))


def _with_lists(key: Key, value: Any) -> Any:
    if key.kind == "list":
        return _comma_list(value)
    if key.kind == "mapping" and isinstance(value, dict):
        return {name: _comma_list(entry) for name, entry in value.items()}
    return value


def _comma_list(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",")] if value.strip() else []


def _name(key: Any) -> str:
    return "null" if key is None else str(key)
