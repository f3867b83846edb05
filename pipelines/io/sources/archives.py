"""Tar and zip archives as sources: the ids of the images are the names of the members."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import IO, cast

import pyarrow as pa

from segray.pipelines.io.manifest import ImageRef
from segray.pipelines.io.members import member_uri, parse_member
from segray.pipelines.io.sources.files import Container
from segray.pipelines.io.sources.parts import DEFLATED, STORED, too_large
from segray.pipelines.io.sources.tar import TarEntry, tar_entries, with_links

_ENCRYPTED, _SMALL = 1, 1024
_LOCAL_HEADER = 30
_TEXTS = (".txt", ".json", ".xml", ".csv", ".yaml", ".yml")
_RATIO, _FREE = 50, 1 << 24
"""Bytes that texts may unpack to for each byte in an archive, and in any: all are in memory together, as
objects that take up to 30 times as much. They are packed to a twentieth, not to less."""
_LINK = 0o120000
_KIND = 0o170000


class TarSource(Container):
    """The images in a tar archive."""

    def read(self, file: pa.NativeFile) -> Iterator[ImageRef]:
        """The images, in the order of the archive."""
        for entry in with_links(list(tar_entries(file))):
            image_id = self.member_id(entry.name.decode("utf-8", "surrogateescape"))
            if image_id is not None:
                yield self._ref(image_id, entry)

    def _ref(self, image_id: str, entry: TarEntry) -> ImageRef:
        uri = member_uri(self.name, "tar", entry.offset, entry.size)
        problem = entry.problem or too_large(entry.size, entry.size)
        return ImageRef(image_id, uri, entry.size, self.mtime, problem)


class ZipSource(Container):
    """The images in a zip archive."""

    damaged = (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, RuntimeError, EOFError)

    def read(self, file: pa.NativeFile) -> Iterator[ImageRef]:
        """The images, in the order of the archive's directory."""
        # Its reader seeks before the start of a small file, and expects another error than Arrow's.
        small = io.BytesIO(file.read()) if file.size() < _SMALL else None
        with zipfile.ZipFile(small or cast("IO[bytes]", file)) as archive:
            members = archive.infolist()
            _check_apart(members)
            for info in members:
                image_id = None if info.is_dir() else self.member_id(info.filename)
                if image_id is not None:
                    yield self._ref(image_id, info)

    def _ref(self, image_id: str, info: zipfile.ZipInfo) -> ImageRef:
        sizes = (info.header_offset, info.compress_size, info.file_size, info.CRC)
        uri = member_uri(self.name, "zip", *sizes)
        return ImageRef(image_id, uri, info.file_size, self.mtime, _problem(info))


def _check_apart(members: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share bytes: then a small archive holds any number of large files.

    Raises:
        ValueError: which ones.
    """
    for first, second in pairwise(sorted(members, key=lambda info: info.header_offset)):
        if first.header_offset + _LOCAL_HEADER + first.compress_size > second.header_offset:
            raise ValueError(f"{first.filename[:100]!r} and {second.filename[:100]!r} share bytes")


def _problem(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & _ENCRYPTED:
        return "encrypted in its archive"
    if info.compress_type not in {STORED, DEFLATED}:
        return f"compressed by method {info.compress_type} (allowed: stored, deflated)"
    if (info.external_attr >> 16) & _KIND == _LINK:
        return "a link in an archive, not followed"
    return too_large(info.file_size, info.compress_size)


def check_texts(members: Iterable[ImageRef]) -> None:
    """Refuse archives whose files of annotations together are far more than the archives hold.

    One by one each may be as large as an image; and links to one file cost a header each.

    Raises:
        ValueError: how much.
    """
    texts = [ref for ref in members if ref.image_id.lower().endswith(_TEXTS) and not ref.problem]
    stored = (parse_member(uri) for uri in {ref.uri for ref in texts})
    packed = sum(member.numbers[1] for member in stored if member)
    unpacked = sum(ref.size for ref in texts)
    limit = _RATIO * packed + _FREE
    if unpacked > limit:
        raise ValueError(
            f"texts unpack from {packed} to {unpacked} bytes (allowed: {limit}); "
            "unpack it and give the folder"
        )
