"""The search space of `segray tune`: a range or a list of values per configuration key."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import ValidationError

from segray.pipelines.config.loading import with_values
from segray.pipelines.config.problems import explain, unknown_key
from segray.pipelines.config.schema import Config, Key, keys
from segray.pipelines.errors import UserError

SPLIT = "data.labelled"
"""The key whose values each have a search of their own."""
THRESHOLD = "label.threshold"
"""The only key that is not one of training: each value is a relabelled label set."""
FORMS = "uniform(LOW,HIGH), loguniform(LOW,HIGH), choice(A,B,...), grid(A,B,...)"

Kind = Literal["uniform", "loguniform", "choice", "grid"]
_FORM = re.compile(r"\s*(uniform|loguniform|choice|grid)\s*\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True)
class Dimension:
    """A key that is searched.

    Attributes:
        key: a dotted key of `segray train`, or `THRESHOLD`.
        low: minimum of uniform and loguniform.
        high: their maximum.
        values: of choice and grid, in the notation of the command line.
        whole: only whole numbers are drawn.
    """

    key: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    values: tuple[str, ...] = ()
    whole: bool = False

    @property
    def listed(self) -> bool:
        """Whether it is a list of values instead of a range."""
        return self.kind in ("choice", "grid")

    def ends(self) -> tuple[str, ...]:
        """The values, or both ends of the range, in the notation of the command line."""
        return self.values if self.listed else (text(self.low), text(self.high))


def text(value: float) -> str:
    """A number in its shortest notation: 3 for 3.0."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def parse_dimension(model: type[Config], key: str, written: str) -> Dimension:
    """The dimension of an expression: what follows `space.KEY=`.

    Raises:
        ValueError: the key cannot be searched, or the expression has none of the `FORMS`.
    """
    known = _searchable(model, key)
    match = _FORM.fullmatch(written)
    if match is None:
        raise ValueError(f"{key}: {written[:100]!r} is not a valid search space (allowed: {FORMS}, or null)")
    kind = cast("Kind", match[1])
    values = tuple(part.strip() for part in match[2].split(","))
    if kind in ("choice", "grid"):
        return _listed(key, kind, values)
    return _range(key, kind, values, known)


def check_dimension(config: Config, dimension: Dimension) -> None:
    """Check that the configuration accepts every value that could be drawn.

    Raises:
        ValueError: it does not accept a value.
    """
    if dimension.key == THRESHOLD:
        _check_thresholds(dimension)
        return
    for value in dimension.ends():
        try:
            with_values(config, {dimension.key: value})
        except ValidationError as error:
            lines = explain(type(config), error.errors(include_url=False))
            raise ValueError("; ".join(lines)) from error
        except UserError as error:
            raise ValueError(str(error)) from error


def parse_space(model: type[Config], space: Mapping[str, str | None]) -> list[Dimension]:
    """The dimensions of a space, without keys that are null.

    Raises:
        ValueError: see `parse_dimension`.
    """
    return [parse_dimension(model, key, written) for key, written in space.items() if written is not None]


def _searchable(model: type[Config], key: str) -> Key | None:
    if key == THRESHOLD:
        return None
    known = keys(model).get(key)
    if known is None:
        raise ValueError(unknown_key(model, key, ""))
    if known.run_only or key == "seed":
        why = "use search.seeds" if key == "seed" else "it only changes where or how fast a run works"
        raise ValueError(f"{key} cannot be searched: {why}")
    return known


def _listed(key: str, kind: Kind, values: tuple[str, ...]) -> Dimension:
    if not all(values) or len(set(values)) < len(values):
        raise ValueError(f"{key}: {kind}({','.join(values)}) has an empty value, or lists a value twice")
    return Dimension(key, kind, values=values)


def _range(key: str, kind: Kind, values: tuple[str, ...], known: Key | None) -> Dimension:
    shown = f"{kind}({','.join(values)})"
    if known is None or known.kind not in ("number", "whole number"):
        raise ValueError(f"{key}: {shown} is for numbers; use choice(A,B,...) or grid(A,B,...)")
    try:
        low, high = (float(value) for value in values)
    except ValueError:
        raise ValueError(f"{key}: {shown} needs two numbers: {kind}(LOW,HIGH)") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{key}: {shown} needs LOW below HIGH")
    if kind == "loguniform" and low <= 0:
        raise ValueError(f"{key}: {shown} needs LOW above 0")
    return Dimension(key, kind, low, high, whole=known.kind == "whole number")


def _check_thresholds(dimension: Dimension) -> None:
    for value in dimension.values:
        try:
            fits = -1 <= float(value) <= 1
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"{THRESHOLD}: {value!r} is not a threshold (allowed: -1 to 1)")
