"""The images in a tar archive that is not compressed, as in a WebDataset shard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

_BLOCK = 512
_MAX_METADATA = 1 << 20
_DIGITS = 20
_FILES = (b"0", b"\0", b"7")
_LONG_NAME, _PAX, _FOLDER, _SPARSE = b"L", b"x", b"5", b"S"
_IGNORED = (b"g", b"K", b"V", b"M")
_LINKS = (b"1", b"2")


class TarEntry(NamedTuple):
    """A file in an archive: its name as bytes, where its data is, and why it is no image."""

    name: bytes
    offset: int
    size: int
    problem: str | None


def tar_entries(file: pa.NativeFile) -> Iterator[TarEntry]:
    """The files of an archive; their data is not read.

    Links are not followed. Names and sizes in headers of the kinds GNU and pax count.

    Args:
        file: the archive.

    Raises:
        ValueError: it is no tar archive, or a header is damaged.
    """
    length, offset = file.size(), 0
    long_name, pax = b"", dict[bytes, bytes]()
    while offset + _BLOCK <= length:
        header = _read(file, offset, _BLOCK)
        if not header.strip(b"\0"):
            return
        kind, size = header[156:157], _number(header[124:136])
        _check(header, offset)
        offset += _BLOCK
        if kind in {_LONG_NAME, _PAX}:
            content = _metadata(file, offset, size)
            if kind == _LONG_NAME:
                long_name = content.rstrip(b"\0")
            else:
                pax = _pax(content)
        elif kind not in _IGNORED:
            size = _positive(int(pax.get(b"size", size)))
            name = pax.get(b"path") or long_name or _name(header)
            if kind != _FOLDER:
                yield TarEntry(name, offset, size, _problem(kind, offset, size, length))
            long_name, pax = b"", {}
            if kind not in {*_FILES, _SPARSE}:
                size = 0
        offset += -(-size // _BLOCK) * _BLOCK


def _problem(kind: bytes, offset: int, size: int, length: int) -> str | None:
    if kind in _LINKS:
        return "a link in an archive, not followed"
    if kind == _SPARSE:
        return "a sparse file in an archive"
    if kind not in _FILES:
        return "not a regular file in its archive"
    return "its archive is cut off" if offset + size > length else None


def _read(file: pa.NativeFile, offset: int, size: int) -> bytes:
    file.seek(offset)
    return bytes(file.read(size))


def _metadata(file: pa.NativeFile, offset: int, size: int) -> bytes:
    if size > _MAX_METADATA:
        raise ValueError(f"a name of {size} bytes at byte {offset}")
    return _read(file, offset, size)


def _check(header: bytes, offset: int) -> None:
    expected = _number(header[148:156])
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != expected:
        raise ValueError(f"no tar header at byte {offset}")


def _number(field: bytes) -> int:
    """Octal digits, or base 256 after a first byte of 0x80."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    return _positive(int(field.strip(b" \0") or b"0", 8))


def _positive(size: int) -> int:
    # With a negative one the next header would be one that was read before.
    if size < 0:
        raise ValueError(f"a size of {size} bytes")
    return size


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:262] == b"ustar" else b""
    # GNU's own kind has times there, and says so by the blank after its mark.
    return prefix + b"/" + name if prefix and header[262:263] == b"\0" else name


def _pax(content: bytes) -> dict[bytes, bytes]:
    """Records `LENGTH KEY=VALUE` and a line feed."""
    records: dict[bytes, bytes] = {}
    start = 0
    while start < len(content):
        # Not cut off record by record: that takes a time with the square of their number.
        blank = content.find(b" ", start, start + _DIGITS)
        end = start + int(content[start : max(start, blank)])
        if not blank < end - 1 < len(content):
            raise ValueError("a pax header of another length")
        key, _, value = content[blank + 1 : end - 1].partition(b"=")
        records[key] = value
        start = end
    return records
