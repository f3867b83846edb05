"""Load, print and fingerprint a configuration: a YAML file, then key=value overrides, validated by a model.

All problems are reported together, one line per key, before anything runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import yaml
from pydantic import ValidationError

from segray.pipelines.config import previous
from segray.pipelines.config.problems import explain, not_a_section, unknown_key
from segray.pipelines.config.schema import Config, Key, keys, section
from segray.pipelines.config.source import Value, parse_flow, parse_override, read_yaml
from segray.pipelines.errors import UserError
from segray.pipelines.io.uris import redacted_tree

T = TypeVar("T", bound=Config)


def load(model: type[T], source: str | None, overrides: Sequence[str] = ()) -> T:
    """A validated configuration.

    Args:
        model: the model to fill.
        source: a YAML file, or None.
        overrides: `a.b=c`, which win over the file; of two for one key the last wins. Commas separate the
            items of a list, `null` is no value, `[...]` and `{...}` are YAML.

    Raises:
        UserError: one line per problem: unknown key, wrong type, out of range, missing, or not readable.
    """
    tree: Mapping[str | None, Value] = read_yaml(source) if source is not None else {}
    return _load(model, tree, overrides)


def load_values(model: type[T], source: str | None, values: Mapping[str, object]) -> T:
    """As `load`, with Python values for keys: text, numbers, paths, lists, nested or dotted names.

    Raises:
        UserError: as `load`.
    """
    reader = _Reader(model, {})
    reader.put_section("", read_yaml(source) if source is not None else {})
    for name, value in values.items():
        reader.put(name, _as_written(value))
    return _validated(model, reader)


def load_filtered(
    model: type[T],
    tree: Mapping[str | None, Value],
    accept: Callable[[Key, Value], bool],
    overrides: Sequence[str],
) -> T:
    """As `load`, of what an earlier command stored, with only those of its keys that `accept` lets through.

    Args:
        model: the model to fill.
        tree: content of the file, possibly with the names of an earlier version.
        accept: called with each key of the file and its value, in whatever notation the file has it.
        overrides: the user's; all are taken.

    Raises:
        UserError: as `load`.
    """
    reader = _Reader(model, {}, accept)
    reader.put_section("", previous.current_tree(tree))
    reader.accept = _everything
    for override in overrides:
        reader.put_override(override)
    return _validated(model, reader)


def split_source(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The configuration file among the arguments of a command, or None, and the overrides."""
    source = next((text for text in arguments if "=" not in text and not text.startswith("-")), None)
    overrides = list(arguments)
    if source is not None:
        overrides.remove(source)
    return source, overrides


def with_values(config: T, values: Mapping[str, str]) -> T:
    """The configuration with other values for some of its keys, written as in key=value overrides.

    Raises:
        UserError: no such key.
        ValidationError: a value that its key does not accept.
    """
    model = type(config)
    reader = _Reader(model, config.model_dump(mode="json"))
    for name, value in values.items():
        reader.put(name, _parsed(keys(model).get(name), name, value))
    if reader.problems:
        raise UserError("\n".join(reader.problems))
    return model.model_validate(reader.tree)


def dump(config: Config, *, set_only: bool = False) -> str:
    """The whole configuration as YAML that `load` reads back to an equal one.

    Args:
        config: any configuration.
        set_only: without keys that the user has not set; some commands ask which ones are.
    """
    return _yaml(config.model_dump(mode="json", exclude_unset=set_only))


def _yaml(tree: object) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)


def dump_redacted(config: Config) -> str:
    """`dump` for files that others may read: without the secrets of its URIs."""
    return _yaml(redacted_tree(config.model_dump(mode="json")))


def identity(config: Config) -> dict[str, object]:
    """The keys that determine what a run writes, by dotted name; runs with equal ones may share an output.

    Values are redacted: a signature that was renewed is no other configuration.
    """
    known = keys(type(config))
    values = _flat(type(config), redacted_tree(config.model_dump(mode="json")), "")
    return {name: value for name, value in values if not known[name].run_only}


def config_hash(config: Config) -> str:
    """sha256 over `identity`: 64 hexadecimal digits. Where and how fast a run works does not change it."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()


def _load(model: type[T], tree: Mapping[str | None, Value], overrides: Sequence[str]) -> T:
    reader = _Reader(model, {})
    reader.put_section("", tree)
    for override in overrides:
        reader.put_override(override)
    return _validated(model, reader)


def _validated(model: type[T], reader: _Reader) -> T:
    try:
        config = model.model_validate(reader.tree)
    except ValidationError as error:
        reader.problems += explain(model, error.errors(include_url=False))
    if reader.problems:
        raise UserError("\n".join(dict.fromkeys(reader.problems)))
    return config


def _as_written(value: object) -> Value:
    """A Python value as YAML without typed scalars would hold it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return {str(name): _as_written(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_written(entry) for entry in value]
    return str(value)


def _flat(model: type[Config], values: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        nested, value = section(field), values[name]
        if nested is not None and isinstance(value, Mapping):
            yield from _flat(nested, value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parsed(key: Key | None, name: str, value: str | None) -> Value:
    """The value of an override: null, YAML in brackets where the key takes several values, else text."""
    if value is None:
        if key is not None and key.kind != "true or false":
            raise UserError(f"{name}: give {name}={key.metavar}")
        return "true"
    if value in ("null", "~"):
        return None
    several = key is None or key.kind in ("list", "text or list", "mapping")
    return parse_flow(value, name) if several and value[:1] in ("[", "{") else value


def _everything(key: Key, value: Value) -> bool:  # noqa: ARG001  the signature of a filter
    return True


class _Reader:
    """Collects values by section, and a line for each key that the model does not have.

    Args:
        model: the model that will validate the values.
        tree: values to start from.
        accept: whether a key takes a value; others are left out.
    """

    def __init__(
        self,
        model: type[Config],
        tree: dict[str, object],
        accept: Callable[[Key, Value], bool] = _everything,
    ) -> None:
        self._model = model
        self.tree = tree
        self.accept = accept
        self.problems: list[str] = []

    def put_override(self, override: str) -> None:
        """Set the key of one `a.b=c`."""
        try:
            name, value = parse_override(override)
            self.put(name, _parsed(keys(self._model).get(name), name, value))
        except UserError as error:
            self.problems.append(str(error))

    def put(self, name: str, value: Value) -> None:
        """Set a dotted key, or all keys of a section."""
        branch, model, path = self.tree, self._model, name.split(".")
        for depth, part in enumerate(path):
            field = model.model_fields.get(part)
            if field is None:
                self.problems.append(unknown_key(self._model, name, ".".join(path[:depth])))
                return
            nested = section(field)
            if nested is None:
                key = keys(self._model)[".".join(path[: depth + 1])]
                if self.accept(key, value):
                    self._put_value(branch, key, ".".join(path[depth + 1 :]), value)
                return
            branch, model = _branch(branch, part), nested
        self.put_section(name, value)

    def put_section(self, name: str, value: Value) -> None:
        """Set the keys of the section `name`; "" is the whole configuration."""
        # A section whose lines are all commented out reads as null.
        if value is None:
            return
        if not isinstance(value, Mapping):
            self.problems.append(not_a_section(self._model, name, value))
            return
        for part, inner in value.items():
            leaf = "null" if part is None else str(part)
            self.put(f"{name}.{leaf}" if name else leaf, inner)

    def _put_value(self, branch: dict[str, object], key: Key, entry: str, value: Value) -> None:
        leaf = key.name.rpartition(".")[2]
        if entry and key.kind != "mapping":
            self.problems.append(unknown_key(self._model, f"{key.name}.{entry}", key.name))
        elif entry:
            branch[leaf] = {**_branch(branch, leaf), entry: _comma_list(value)}
        elif isinstance(value, str) and (new := previous.VALUES.get(key.name, {}).get(value)):
            self.problems.append(f"{key.name}: {value} is now {new}")
        else:
            branch[leaf] = _with_lists(key, value)


def _branch(tree: dict[str, object], name: str) -> dict[str, object]:
    """The mapping under a name, created where there is none."""
    branch = tree.get(name)
    if not isinstance(branch, dict):
        branch = tree[name] = {}
    return branch


def _with_lists(key: Key, value: Value) -> Value:
    if key.kind == "list":
        return _comma_list(value)
    if key.kind == "mapping" and isinstance(value, Mapping):
        return {name: _comma_list(entry) for name, entry in value.items()}
    return value


def _comma_list(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",")] if value.strip() else []
