"""Networks without random weights: all their values are to come from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FILLS = (Tensor.normal_, Tensor.uniform_)


class _NoRandomNumbers(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


@contextmanager
def uninitialised() -> Iterator[None]:
    """Parameters of modules that are built here keep whatever is in their memory.

    Drawing random numbers for them takes longer than loading a file. Large tensors take no memory before
    they are written. Not the device "meta" instead: it has no values of buffers that are in no file, and its
    arithmetic imports torch's compiler, which takes more than a second.
    """
    with _NoRandomNumbers():
        yield
