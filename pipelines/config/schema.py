"""The base model of configurations, markers for its fields, and a list of all keys of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class Config(BaseModel):
    """A frozen section of a configuration; the docstring under a field is its help."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class RunOnly:
    """Marks a key that says where or how fast a run works, not what it writes: it is not part of the hash."""


@dataclass(frozen=True)
class Shown:
    """How help and errors show a key: the placeholder for its value, and what its pattern allows.

    `choices` are the names that a validator knows, of a key that is a choice and no Literal.
    """

    metavar: str
    allowed: str = ""
    choices: tuple[str, ...] = ()


Text = Annotated[str, Field(min_length=1)]
Folder = Annotated[str, Field(min_length=1), Shown("DIR")]
Sha256 = Annotated[
    str, Field(pattern="^[0-9a-f]{64}$"), Shown("SHA256", "64 hexadecimal digits in lower case")
]

_SCALARS = {bool: "true or false", int: "whole number", float: "number", str: "text"}


@dataclass(frozen=True)
class Key:
    """One dotted key of a configuration, as help, reference and error messages need it.

    Attributes:
        kind: "true or false", "whole number", "number", "text", "choice", "list", "text or list", "mapping".
        allowed: the range or the choices as text; empty where every value of the kind is allowed.
        choices: the values of a "choice".
    """

    name: str
    kind: str
    allowed: str
    nullable: bool
    required: bool
    default: object
    help: str
    metavar: str
    run_only: bool
    choices: tuple[str, ...] = ()


@lru_cache
def keys(model: type[Config]) -> Mapping[str, Key]:
    """Every key of a configuration by its dotted name, in the order of its fields."""
    return {key.name: key for key in _walk(model, "")}


def section(field: FieldInfo) -> type[Config] | None:
    """The configuration model that a field holds, or None for a field with a value of its own."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Config) else None


def _walk(model: type[Config], prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        nested = section(field)
        if nested is not None:
            yield from _walk(nested, f"{prefix}{name}.")
        else:
            yield _key(f"{prefix}{name}", field)


def _key(name: str, field: FieldInfo) -> Key:
    annotation, inner, nullable = _plain(field.annotation)
    metadata = [*field.metadata, *inner]
    shown = next((m for m in metadata if isinstance(m, Shown)), None)
    known = shown.choices if shown else ()
    kind, choices = ("choice", known) if known else _kind(annotation)
    return Key(
        name=name,
        kind=kind,
        allowed=(shown.allowed if shown else "") or ", ".join(known) or _allowed(annotation, metadata),
        nullable=nullable,
        required=field.is_required(),
        default=None if field.is_required() else field.get_default(call_default_factory=False),
        help=" ".join((field.description or "").split()),
        metavar=shown.metavar if shown else name.rpartition(".")[2].upper(),
        run_only=any(m is RunOnly for m in metadata),
        choices=choices,
    )


def _plain(annotation: object) -> tuple[object, list[object], bool]:
    """An annotation without `Annotated` and None, its metadata, and whether None was a part of it."""
    metadata: list[object] = []
    nullable = False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *extra = get_args(annotation)
            metadata += [m for e in extra for m in (e.metadata if isinstance(e, FieldInfo) else [e])]
        elif _is_union(annotation) and NoneType in get_args(annotation):
            rest = tuple(a for a in get_args(annotation) if a is not NoneType)
            annotation, nullable = (rest[0] if len(rest) == 1 else Union[rest]), True  # noqa: UP007
        else:
            return annotation, metadata, nullable


def _is_union(annotation: object) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _kind(annotation: object) -> tuple[str, tuple[str, ...]]:
    if isinstance(annotation, type) and annotation in _SCALARS:
        return _SCALARS[annotation], ()
    if get_origin(annotation) is Literal:
        return "choice", tuple(str(a) for a in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list", ()
    if get_origin(annotation) is dict:
        return "mapping", ()
    if _is_union(annotation) and {_kind(_plain(a)[0])[0] for a in get_args(annotation)} == {"text", "list"}:
        return "text or list", ()
    raise TypeError(f"a configuration field cannot have the type {annotation}")


def _allowed(annotation: object, metadata: list[object]) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(str(a) for a in get_args(annotation))
    return _range(metadata)


def _range(metadata: list[object]) -> str:
    at_least = next((_number(m.ge) for m in metadata if isinstance(m, Ge)), "")
    above = next((_number(m.gt) for m in metadata if isinstance(m, Gt)), "")
    at_most = next((_number(m.le) for m in metadata if isinstance(m, Le)), "")
    below = next((_number(m.lt) for m in metadata if isinstance(m, Lt)), "")
    if at_least and at_most:
        return f"{at_least} to {at_most}"
    low = f"above {above}" if above else f"at least {at_least}" if at_least else ""
    high = f"below {below}" if below else f"at most {at_most}" if at_most else ""
    return " and ".join(part for part in (low, high) if part)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
