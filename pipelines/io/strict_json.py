"""JSON without Python's extensions, of files that anyone may have written."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_json(data: bytes | str) -> Any:
    """The content of a JSON file, without Python's extensions NaN and Infinity.

    Raises:
        ValueError: not JSON.
        RecursionError: nested too deeply.
    """
    return json.loads(data, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
