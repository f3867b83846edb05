"""What a zip archive of weights unpacks to, so that PyTorch's reader and Python's cannot differ about it.

Each looks for the directory at the end in its own way. With bytes behind the end, or a second end, one of
them sees another archive than the one that was checked.
"""

from __future__ import annotations

import struct
import zipfile
from typing import IO

MAGIC = b"PK\x03\x04"
"""How torch.load tells an archive from a pickle, whatever the end says."""

_SLACK = 1 << 24
_END, _END_BYTES = b"PK\x05\x06", 22
_LOCATOR, _LOCATOR_BYTES = b"PK\x06\x07", 20
_END64, _END64_BYTES = b"PK\x06\x06", 56
_TAIL_BYTES = _END_BYTES + _LOCATOR_BYTES + _END64_BYTES


class OddArchiveError(ValueError):
    """An archive that no program writes for weights; a predicate, to follow the name of the file."""


def is_archive(file: IO[bytes]) -> bool:
    """Whether torch.load takes the file for an archive; it is at its beginning afterwards."""
    file.seek(0)
    found = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    return found


def check_unpacked(file: IO[bytes]) -> None:
    """Refuse an archive that unpacks to more than it holds: torch compresses no more than lines of code.

    Raises:
        OddArchiveError: that, or its directory does not end where the file does.
        zipfile.BadZipFile, OSError, NotImplementedError: damaged, or not readable.
    """
    _check_end(file)
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
        if unpacked > archive.start_dir + _SLACK:
            raise OddArchiveError(f"unpacks to {unpacked} bytes, far more than it holds")
    file.seek(0)


def _check_end(file: IO[bytes]) -> None:
    """The directory, the records of its end, and nothing else."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    end = tail[-_END_BYTES:]
    if not end.startswith(_END) or any(end[-2:]):
        raise OddArchiveError("is cut, or has something behind the end of its archive")
    length, start = struct.unpack("<LL", end[12:20])
    stop = size - _END_BYTES
    locator = tail[-_END_BYTES - _LOCATOR_BYTES : -_END_BYTES]
    if locator.startswith(_LOCATOR):
        stop -= _LOCATOR_BYTES + _END64_BYTES
        large = tail[:_END64_BYTES]
        (told,) = struct.unpack("<Q", locator[8:16])
        if told != stop or not large.startswith(_END64):
            raise OddArchiveError("has two ends of its archive")
        length, start = struct.unpack("<QQ", large[40:56])
    if start + length != stop:
        raise OddArchiveError("has a directory that does not end where its archive does")
