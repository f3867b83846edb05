"""`torch.compile` compiles, and fails, in the first call of the function that it returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from segray.models.messages import first_line


class CannotCompileError(Exception):
    """`torch.compile` does not work here, for instance because there is no compiler."""


@contextmanager
def compiling(key: str) -> Iterator[None]:
    """Report in one line why the first call of a compiled function failed.

    Args:
        key: of the configuration, such as `train.compile`.

    Raises:
        CannotCompileError: with that line.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = first_line(getattr(error, "inner_exception", error))
        raise CannotCompileError(f"{key}=true: {reason}; {key}=false needs no compiler") from error
