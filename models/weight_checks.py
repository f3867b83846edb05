"""What a file of weights of a stranger would cost, told before it is loaded.

`torch.load(weights_only=True)` runs no code of a file. But it fills memory by the file's word
(`bytearray(N)`, texts that are encoded again and again), and takes a tuple as a key that holds itself twice,
level by level, whose hash takes a time that doubles with each level.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from segray.models.archive_checks import check_unpacked, is_archive

MAX_OPERATIONS = 2_000_000
"""Of one pickle; a network of 600 tensors takes 12,000."""
MAX_PARTS = 10_000_000
"""Of all that its operations put together, counted as often as it is named."""
MAX_BYTES = 1 << 26
"""Of one pickle in an archive, without the tensors' values."""

MAX_HEADER = 1 << 24
"""Bytes of the names in a safetensors file; those of the largest networks take a few million."""

_LEGACY_PICKLES = 5
_CALLED = re.compile(
    r"collections (OrderedDict|Counter)|torch (Size|device)|torch\.serialization _get_layout"
    r"|torch\._utils (_rebuild_tensor(_v[23])?|_rebuild_parameter(_with_state)?)"
)
# Types of values; called, each would make a tensor of any size.
_NAMED = re.compile(r"torch(\.cuda|\.storage)? \w+Storage|torch b?(float|complex|int|uint|bool|q)\w*")
_SLACK = 1 << 24
_MOST_SHARED = 4


class _Name(NamedTuple):
    """A function or a type that a pickle names, such as "collections OrderedDict"."""

    text: str


_Parts = int | _Name | None
"""Of an object on the stack: how many parts it has; None: a mark."""


def check_pickles(file: Path | IO[bytes]) -> None:
    """Refuse weights whose pickles build anything but tensors and plain values, or far too much.

    Args:
        file: as `torch.save` writes it, in its format of today or the earlier one.

    Raises:
        ValueError: why.
        RuntimeError: not an archive that PyTorch reads.
        zipfile.BadZipFile: nor Python.
        OSError: not readable.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            check_pickles(opened)
        return
    if is_archive(file):
        check_unpacked(file)
        record: bytes = torch._C.PyTorchFileReader(file).get_record("data.pkl")
        _check(record)
    else:
        for _ in range(_LEGACY_PICKLES):
            _Machine().check(file)
    file.seek(0)


def check_header(file: Path | bytes) -> None:
    """Refuse a safetensors file of more names than a network has.

    Args:
        file: its path or its bytes.

    Raises:
        ValueError: how many bytes they take.
        OSError: not readable.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            file = opened.read(8)
    size = int.from_bytes(file[:8], "little")
    if size > MAX_HEADER:
        raise ValueError(f"a header of {size} bytes (allowed: at most {MAX_HEADER})")


def check_tensors(tensors: Iterable[Tensor]) -> None:
    """Refuse tensors that are larger than their data, alone or together: a copy of them fills any memory.

    Raises:
        ValueError: the shape, or the sizes.
    """
    total, stored = 0, dict[int, int]()
    for tensor in tensors:
        n_bytes = tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else 0
        if tensor.nbytes > n_bytes:
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is larger than its data")
        total += tensor.nbytes
        stored[tensor.untyped_storage().data_ptr()] = n_bytes
    if total > _MOST_SHARED * sum(stored.values()) + _SLACK:
        raise ValueError(f"tensors of {total} bytes share {sum(stored.values())}")


def _check(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise ValueError(f"a pickle of {len(data)} bytes (allowed: at most {MAX_BYTES})")
    _Machine().check(data)


class _Machine:
    """Counts the parts of each object that a pickle builds."""

    def __init__(self) -> None:
        self._stack: list[_Parts] = []
        self._memo: dict[int, _Parts] = {}
        self._total = 0

    def check(self, pickle: bytes | IO[bytes]) -> None:
        """Go through one pickle.

        Raises:
            ValueError: what is not allowed, or damaged.
        """
        for number, (operation, argument, _) in enumerate(pickletools.genops(pickle)):
            if number > MAX_OPERATIONS:
                raise ValueError(f"more than {MAX_OPERATIONS} operations")
            self._step(operation, argument)

    def _step(self, operation: pickletools.OpcodeInfo, argument: Any) -> None:
        name = operation.name
        if name == "GLOBAL":
            self._stack.append(_allowed(str(argument)))
        elif name in {"PUT", "BINPUT", "LONG_BINPUT"}:
            self._memo[int(argument)] = self._stack[-1] if self._stack else 0
        elif name in {"GET", "BINGET", "LONG_BINGET"}:
            self._stack.append(self._memo.get(int(argument), 0))
        elif name == "MARK":
            self._stack.append(None)
        else:
            self._check_call(name)
            self._build(operation)

    def _check_call(self, operation: str) -> None:
        if operation in {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ", "NEWOBJ_EX"}:
            raise ValueError(f"the operation {operation}")
        if operation == "REDUCE":
            called = self._stack[-2] if len(self._stack) > 1 else None
            name = called.text if isinstance(called, _Name) else "a value"
            if _CALLED.fullmatch(name) is None:
                raise ValueError(f"it calls {_shown(name)}")

    def _build(self, operation: pickletools.OpcodeInfo) -> None:
        parts = 1
        for kind in reversed(operation.stack_before):
            if kind is pickletools.stackslice:
                while self._stack and (top := self._stack.pop()) is not None:
                    parts += _count(top)
            elif kind is not pickletools.markobject and self._stack:
                parts += _count(self._stack.pop())
        self._total += parts
        if self._total > MAX_PARTS:
            raise ValueError(f"it builds more than {MAX_PARTS} parts")
        self._stack += [parts] * len(operation.stack_after)


def _count(item: _Parts) -> int:
    return item if isinstance(item, int) else 1


def _allowed(argument: str) -> _Name:
    if not (_CALLED.fullmatch(argument) or _NAMED.fullmatch(argument)):
        raise ValueError(f"it uses {_shown(argument)}")
    return _Name(argument)


def _shown(argument: str) -> str:
    return argument[:100].replace(" ", ".")
