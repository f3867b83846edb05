"""The images in a tar archive that is not compressed, as in a WebDataset shard."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

_BLOCK = 512
_MAX_METADATA = 1 << 20
_DIGITS = 20
_FILES = (b"0", b"\0", b"7")
_LONG_NAME, _LONG_LINK, _PAX, _FOLDER, _SPARSE = b"L", b"K", b"x", b"5", b"S"
_IGNORED = (b"g", b"V", b"M")
_SYMLINK = b"2"
_LINKS = (b"1", _SYMLINK)
_BZIP2 = tuple(b"BZh%d1AY&SY" % level for level in range(1, 10))
"""A folder may be called BZh, as all of a tar's first name may stand here."""
_COMPRESSED = (b"\x1f\x8b", *_BZIP2, b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_MAX_LINKS = 40
"""Links to links that are followed, as on Linux."""


class TarEntry(NamedTuple):
    """A file in an archive.

    Attributes:
        name: as bytes.
        offset: of its data.
        size: of its data.
        problem: why it is no image.
        target: of a link, the name that it leads to; b"" where it leads out of the archive.
    """

    name: bytes
    offset: int
    size: int
    problem: str | None
    target: bytes | None = None


def tar_entries(file: pa.NativeFile) -> Iterator[TarEntry]:
    """The files of an archive; their data is not read.

    Names, links and sizes in headers of the kinds GNU and pax count; see `with_links` for links.

    Args:
        file: the archive.

    Raises:
        ValueError: it is no tar archive, or a header is damaged.
    """
    length, offset = file.size(), 0
    if _read(file, 0, _BLOCK).startswith(_COMPRESSED):
        raise ValueError("a compressed tar; unpack it, or write a plain one")
    long, pax = dict[bytes, bytes](), dict[bytes, bytes]()
    while offset + _BLOCK <= length:
        header = _read(file, offset, _BLOCK)
        if not header.strip(b"\0"):
            return
        kind, size = header[156:157], _number(header[124:136])
        _check(header, offset)
        offset += _BLOCK
        if kind in {_LONG_NAME, _LONG_LINK}:
            long[kind] = _metadata(file, offset, size).rstrip(b"\0")
        elif kind == _PAX:
            pax = _pax(_metadata(file, offset, size))
        elif kind not in _IGNORED:
            size = _positive(int(pax.get(b"size", size)))
            name = pax.get(b"path") or long.get(_LONG_NAME) or _name(header)
            link = pax.get(b"linkpath") or long.get(_LONG_LINK) or header[157:257].partition(b"\0")[0]
            if kind != _FOLDER:
                target = _target(kind, name, link)
                yield TarEntry(name, offset, size, _problem(kind, offset, size, length), target)
            long, pax = {}, {}
            if kind not in {*_FILES, _SPARSE}:
                size = 0
        offset += -(-size // _BLOCK) * _BLOCK


def with_links(entries: Sequence[TarEntry]) -> Iterator[TarEntry]:
    """The entries of an archive; links have the data of the file in the archive that they lead to, if any.

    Links to folders, out of the archive, to nothing and in circles keep their `problem`.
    """
    links = any(entry.target for entry in entries)
    # Of two with one name the later one counts, as for tar.
    by_name = {posixpath.normpath(entry.name): entry for entry in entries} if links else {}
    for entry in entries:
        found = entry
        for _ in range(_MAX_LINKS):
            if not found.target or found.target not in by_name:
                break
            found = by_name[found.target]
        yield entry if found.target is not None else found._replace(name=entry.name)


def _target(kind: bytes, name: bytes, link: bytes) -> bytes | None:
    if kind not in _LINKS:
        return None
    # Hard links count from the root of the archive, symlinks from their folder.
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link) if kind == _SYMLINK else link)
    return b"" if path.startswith((b"/", b"..")) or not link else path


def _problem(kind: bytes, offset: int, size: int, length: int) -> str | None:
    if kind in _LINKS:
        return "a link in an archive that leads to no file in it"
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
