"""`torch.compile`, which does its work, and fails, in the first call of what it returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CannotCompileError(Exception):
    """`torch.compile` does not get through here, for want of a compiler for instance."""


@contextmanager
def compiling(key: str) -> Iterator[None]:
    """Say in one line why the first call of a compiled function failed.

    Args:
        key: of the configuration, such as `train.compile`.

    Raises:
        CannotCompileError: with that line.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        why = str(getattr(error, "inner_exception", error)).splitlines()[0]
        raise CannotCompileError(f"{key}=true: {why}; {key}=false needs no compiler") from error
