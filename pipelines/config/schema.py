"""What a configuration is made of: the base model, markers for its fields, and a walk over its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

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
    """Marks a key that says where or how fast a run works, not what it writes: it is no part of the hash."""


@dataclass(frozen=True)
class Shown:
    """How a key is shown: the word that stands for its value, and what its pattern allows."""

    metavar: str
    allowed: str = ""


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
        allowed: the range or the choices in words; empty where every value of the kind will do.
        choices: the values of a "choice".
    """

    name: str
    kind: str
    allowed: str
    nullable: bool
    required: bool
    default: Any
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
    kind, choices = _kind(annotation)
    return Key(
        name=name,
        kind=kind,
        allowed=(shown.allowed if shown else "") or _allowed(annotation, metadata),
        nullable=nullable,
        required=field.is_required(),
        default=None if field.is_required() else field.get_default(call_default_factory=False),
        help=" ".join((field.description or "").split()),
        metavar=shown.metavar if shown else name.rpartition(".")[2].upper(),
        run_only=any(m is RunOnly for m in metadata),
        choices=choices,
    )


def _plain(annotation: Any) -> tuple[Any, list[Any], bool]:
    """An annotation without `Annotated` and None, the metadata met on the way, and whether None was there."""
    metadata: list[Any] = []
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


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _kind(annotation: Any) -> tuple[str, tuple[str, ...]]:
    if annotation in _SCALARS:
        return _SCALARS[annotation], ()
    if get_origin(annotation) is Literal:
        return "choice", tuple(str(a) for a in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list", ()
    if get_origin(annotation) is dict:
        return "mapping", ()
    if _is_union(annotation) and {_kind(_plain(a)[0])[0] for a in get_args(annotation)} == {"text", "list"}:
        return "text or list", ()
    raise TypeError(f"a configuration field of type {annotation} has no way to be written")


def _allowed(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(str(a) for a in get_args(annotation))
    return _range(metadata)


def _range(metadata: list[Any]) -> str:
    ends: dict[type, Any] = {type(m): m for m in metadata if isinstance(m, Ge | Gt | Le | Lt)}
    low = f"at least {_number(ends[Ge].ge)}" if Ge in ends else ""
    high = f"at most {_number(ends[Le].le)}" if Le in ends else ""
    if low and high:
        return f"{_number(ends[Ge].ge)} to {_number(ends[Le].le)}"
    low = f"above {_number(ends[Gt].gt)}" if Gt in ends else low
    high = f"below {_number(ends[Lt].lt)}" if Lt in ends else high
    return " and ".join(part for part in (low, high) if part)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
