"""The architecture that a file of weights brings: it may be anyone's, and decides what is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

MAX_NUMBER = 65_536
MAX_ITEMS = 256
MAX_SIDE = 4096
"""Pixels of a network's square input."""

_LARGER = 16
_MOST_MODULES = 100_000


def is_like(arch: object, own: Any) -> bool:
    """Whether an architecture has the keys of segray's own, with whole numbers up to 16 times its numbers."""
    if isinstance(own, Mapping):
        if not isinstance(arch, Mapping) or arch.keys() != own.keys():
            return False
        return all(is_like(arch[key], value) for key, value in own.items())
    return type(arch) is int and 1 <= arch <= _LARGER * own


def check_numbers(arch: object, own: object, name: str = "arch") -> None:
    """Refuse an architecture of more than numbers: by a text, a library loads code, kernels or other weights.

    Args:
        arch: of the file.
        own: segray's own; its texts, which name types of models, are allowed where it has them.
        name: of `arch`, for messages.

    Raises:
        ValueError: the key, and what is allowed.
    """
    if isinstance(arch, Mapping):
        for key, value in arch.items():
            if str(key).startswith("_"):
                raise ValueError(f"its {name} has the key {str(key)[:40]!r}")
            inner = own.get(key) if isinstance(own, Mapping) else None
            check_numbers(value, inner, f"{name}.{str(key)[:40]}")
    elif isinstance(arch, list):
        if len(arch) > MAX_ITEMS:
            raise ValueError(f"its {name} has {len(arch)} items (allowed: at most {MAX_ITEMS})")
        for value in arch:
            check_numbers(value, None, name)
    elif not _is_number(arch) and not (isinstance(arch, str) and arch == own):
        raise ValueError(f"its {name} must be a number up to {MAX_NUMBER}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= MAX_NUMBER


def check_side(side: object) -> int:
    """The side of a network's input.

    Raises:
        ValueError: it is none.
    """
    if type(side) is not int or not 1 <= side <= MAX_SIDE:
        raise ValueError(f"its input has {side!r} pixels a side (allowed: 1 to {MAX_SIDE})")
    return side


def check_size(build: Callable[[], object], state: Mapping[str, Tensor]) -> None:
    """Refuse an architecture that would take far more memory than its file.

    Args:
        build: makes the network; it is called once.
        state: the tensors of the file.

    Raises:
        ValueError: that, or as `build`.
    """
    # On a device that takes none: there a single layer may have any size.
    with torch.device("meta"), at_most(2 * sum(value.numel() for value in state.values())):
        build()


@contextmanager
def at_most(n_values: int) -> Iterator[None]:
    """Within it a network that grows beyond so many parameters, or 100,000 modules, is built no further.

    Holds for the whole process.

    Raises:
        ValueError: it was ended.
    """
    values = modules = 0

    def count_values(_: nn.Module, __: str, value: Tensor | None) -> None:
        nonlocal values
        values += 0 if value is None else value.numel()
        if values > n_values:
            raise ValueError(f"its architecture has {values} parameters or more, and the file far fewer")

    def count_modules(*_: object) -> None:
        nonlocal modules
        modules += 1
        if modules > _MOST_MODULES:
            raise ValueError(f"its architecture has more than {_MOST_MODULES} modules")

    handles = (
        hooks.register_module_parameter_registration_hook(count_values),
        hooks.register_module_module_registration_hook(count_modules),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
