"""Configuration as users write it, YAML and key=value overrides, parsed into plain text, lists and mappings.

Scalars stay text: `out: 2024` is a folder and `classes: on` is a class, whatever YAML 1.1 makes of them. The
type of the field decides later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, cast

import yaml

from segray.pipelines.errors import UserError

Value: TypeAlias = "str | list[Value] | Mapping[str | None, Value] | None"
"""What YAML without typed scalars holds."""

_OVERRIDE = re.compile(r"(--)?([^\W\d][^=]*)=(.*)", re.DOTALL)
_SWITCH = re.compile(r"--([^\W\d][\w.-]*)")


class _TextLoader(yaml.SafeLoader):
    """The safe loader, limited to text, null, lists and mappings: a bare word is never converted."""


_KEPT_TAGS = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _mapping(loader: _TextLoader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != _KEPT_TAGS[1] and key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key.value} is listed twice", key.start_mark
            )
        seen.add(str(key.value))
    loader.flatten_mapping(node)
    return yaml.constructor.BaseConstructor.construct_mapping(loader, node, deep=True)


def _text(loader: _TextLoader, node: yaml.ScalarNode) -> str:
    """JSON is YAML too, and writes what lies beyond 16 bits as two halves; no file name holds one half."""
    text: str = loader.construct_scalar(node)
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise yaml.constructor.ConstructorError(
            None, None, "half a character (a lone surrogate)", node.start_mark
        ) from None


_TextLoader.yaml_constructors = {
    tag: yaml.SafeLoader.yaml_constructors[tag]
    for tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:seq", None)
}
_TextLoader.add_constructor("tag:yaml.org,2002:str", _text)
_TextLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: str) -> Mapping[str | None, Value]:
    """The mapping in a YAML file, every scalar as text or None.

    Raises:
        UserError: no such file, not YAML, tags that would run code, or no mapping at the top level.
    """
    try:
        return parse_yaml(Path(path).read_bytes(), path)
    except FileNotFoundError:
        raise UserError(f"no configuration file {path!r}; values are given as key=value") from None
    except IsADirectoryError:
        raise UserError(
            f"{path!r} is a folder, not a configuration file; values are given as key=value"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read configuration file {path!r}: {error}") from None


def parse_yaml(text: bytes, where: str) -> Mapping[str | None, Value]:
    """As `read_yaml`, of the file's content; `where` is named in errors.

    Raises:
        UserError: as `read_yaml`, except for a file that cannot be read.
    """
    data = _parse(text, where)
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: not a configuration; it needs lines of the form key: value")
    return data


def parse_override(override: str) -> tuple[str, str | None]:
    """`key=value` as the key and its value.

    `--key=value` is accepted too. `--key` has the value None: only a true-or-false key takes it.

    Raises:
        UserError: neither form.
    """
    if match := _OVERRIDE.fullmatch(override):
        return match[2].replace("-", "_") if match[1] else match[2], match[3]
    if match := _SWITCH.fullmatch(override):
        return match[1].replace("-", "_"), None
    raise UserError(f"{override[:100]!r} is not of the form key=value")


def parse_flow(text: str, key: str) -> Value:
    """A value written as a YAML list or mapping on one line, such as `[a, b]`; `key` is named in errors."""
    return _parse(text.encode("utf-8", "surrogateescape"), key)


def _parse(data: bytes, where: str) -> Value:
    try:
        return cast("Value", yaml.load(data, _TextLoader))  # noqa: S506  a SafeLoader that converts less
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{where}{line}: {_refusal(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: not a YAML text: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None


def _refusal(error: yaml.MarkedYAMLError) -> str:
    tag = re.search(r"could not determine a constructor for the tag '([^']*)'", error.problem or "")
    if tag:
        name = tag[1].replace("tag:yaml.org,2002:", "!!")
        return f"tag {name} is refused; plain text, lists and mappings only"
    return f"{error.problem or 'not YAML'}{', ' + error.context if error.context else ''}"
