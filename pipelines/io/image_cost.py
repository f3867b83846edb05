"""What an image file may cost: limits told from its bytes before anything is decoded, and a deadline."""

from __future__ import annotations

import io
import re
import time

from PIL import Image, TiffImagePlugin

MAX_SCANS = 100
"""Of a JPEG. Encoders write 1 to 20; each costs a pass over all pixels."""
_USUAL_SCANS = 20
_SCAN = b"\xff\xda"
# Inside the data of a scan, 0xff is followed by 0 or by a restart marker.
# Of several 0xff in a row the last one counts: a pattern for all of them takes a time with their square.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_BARE = frozenset({0x01, 0xD8})
_END = 0xD9
_SCAN_CODE = 0xDA
# How long these take follows from the pixels: `raw` is read piece by piece, the others once per strip.
_STEADY = frozenset({"raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "tiff_raw_16"})
# One call of these decodes a whole file, and nothing from Python can stop it.
_ONE_CALL = frozenset({"JPEG2000", "AVIF"})
_STRIP_BYTES, _TILE_BYTES = 279, 325
COUNT_READS = 10_000
"""Reads of a file that counting its frames may take: some hundreds of frames."""


class TookTooLongError(Exception):
    """The deadline of a file has passed."""


class TooManyReadsError(Exception):
    """More reads than were allowed."""


class TimedFile(io.BytesIO):
    """A file in memory that stops Pillow's loops: each read after the deadline raises.

    Args:
        data: the file.
        seconds: from now to the deadline.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._deadline = time.monotonic() + seconds
        self._reads_left: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file.

        Raises:
            TookTooLongError: the deadline has passed.
            TooManyReadsError: see `allow_reads`.
        """
        self.check()
        if self._reads_left is not None:
            self._reads_left -= 1
            if self._reads_left < 0:
                raise TooManyReadsError
        return super().read(size)

    def check(self) -> None:
        """Raise `TookTooLongError` if the deadline has passed."""
        if time.monotonic() > self._deadline:
            raise TookTooLongError

    def allow_reads(self, count: int) -> None:
        """Raise `TooManyReadsError` after so many more reads."""
        self._reads_left = count


def jpeg_scans(data: bytes) -> int:
    """The scans of a JPEG's first image, at most `MAX_SCANS` + 1; without decoding it."""
    count = data.count(_SCAN)
    # What is in metadata, a preview for one, counts too: an upper bound, and cheap.
    return count if count <= _USUAL_SCANS else _walk_scans(data)


def _walk_scans(data: bytes) -> int:
    scans, place = 0, 0
    while scans <= MAX_SCANS and (marker := _MARKER.search(data, place)):
        code, place = marker[1][0], marker.end()
        if code == _END:
            break
        scans += code == _SCAN_CODE
        if code not in _BARE:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return scans


def is_unstoppable(image: Image.Image, data: bytes) -> bool:
    """Whether decoding may take long inside one native call, so that only the end of a process stops it."""
    if image.format in {"JPEG", "MPO"}:
        return jpeg_scans(data) > _USUAL_SCANS
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _compression(image) not in _STEADY or shares_bytes(image, data)
    return image.format in _ONE_CALL


def _compression(image: TiffImagePlugin.TiffImageFile) -> str:
    return str(image.info.get("compression", "raw"))


def shares_bytes(image: TiffImagePlugin.TiffImageFile, data: bytes) -> bool:
    """Whether the strips of a TIFF share bytes, so that decoding reads more than the file."""
    counts = (image.tag_v2.get(tag) for tag in (_STRIP_BYTES, _TILE_BYTES))
    return sum(
        sum(numbers) if isinstance(numbers, tuple) else numbers for numbers in counts if numbers
    ) > len(data)
