"""The chunks of a PNG file, with every checksum and length verified."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BLOCK = 1 << 24
_FOR_PIXELS = frozenset({b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"})
"""Of the ancillary chunks: transparency, orientation, and what makes an animation."""
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_TURNED = frozenset({b"XML:com.adobe.xmp", b"Raw profile type exif"})
"""Keywords of texts in which programs without `eXIf` keep the orientation."""
_TEXT_BYTES, _PACKED_BYTES = 1 << 24, 1 << 20
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Header(NamedTuple):
    """What the first chunk says of the pixels; the numbers are the format's own."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: int


def check_png(data: bytes, max_pixels: int) -> None:
    """Make sure that a PNG of any kind is whole: Pillow would read missing rows as black.

    Raises:
        ValueError: not a PNG, truncated, damaged (every checksum is verified), or of more pixels.
    """
    header, pixels = parts(data)
    width, height = header.width, header.height
    if width * height > max_pixels:
        raise ValueError(f"{width}x{height} pixels (allowed: {max_pixels / 1e6:g} million)")
    bits = header.depth * _CHANNELS.get(header.colour, 1)
    passes = _ADAM7 if header.interlaced else ((0, 0, 1, 1),)
    sizes = ((len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes)
    n_bytes = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns)
    for _ in inflate(pixels, n_bytes, 1):
        pass


def for_pixels(data: bytes) -> bytes:
    """The PNG without chunks that its pixels do not need, such as colour profiles and long texts.

    Decoders refuse files for the size of such a chunk, or for damage in it. What cannot be followed is kept,
    so that the reason is the decoder's.
    """
    kept: list[bytes | memoryview] = [SIGNATURE]
    view, start, kind, text = memoryview(data), len(SIGNATURE), b"", _TEXT_BYTES
    while kind != b"IEND" and start + 12 <= len(data):
        kind = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        cost = _text_bytes(kind, data[start + 8 : end]) if kind in _TEXTS else None
        text -= cost or 0
        if _is_needed(kind) or (cost is not None and text >= 0):
            kept.append(view[start:end])
        start = end
    whole = [*kept, view[start:]]
    return b"".join(whole) if sum(map(len, whole)) < len(data) else data


def _is_needed(kind: bytes) -> bool:
    # A capital first letter: the pixels cannot be read without it.
    return kind in _FOR_PIXELS or not kind[0] & 0x20


def _text_bytes(kind: bytes, body: bytes) -> int | None:
    """Size of a text that may hold the orientation; None for any other, and for a damaged one.

    Args:
        kind: of `_TEXTS`.
        body: with its checksum.
    """
    body, check = body[:-4], body[-4:]
    keyword, _, rest = body.partition(b"\0")
    if keyword not in _TURNED or zlib.crc32(kind + body) != int.from_bytes(check, "big"):
        return None
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):
        return len(rest)
    packed = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    try:
        size = len(zlib.decompressobj().decompress(packed, _PACKED_BYTES + 1))
    except zlib.error:
        return None
    return size if size <= _PACKED_BYTES else None


def parts(data: bytes) -> tuple[Header, bytes]:
    """The header of a PNG, and its pixels as they are packed.

    Raises:
        ValueError: not a PNG, truncated or damaged.
    """
    (first, body), *others = chunks(data)
    if first != b"IHDR" or len(body) != 13:
        raise ValueError("damaged PNG: no header")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
    return Header(width, height, depth, colour, interlaced), b"".join(
        body for kind, body in others if kind == b"IDAT"
    )


def inflate(data: bytes, height: int, stride: int) -> Iterator[NDArray[np.uint8]]:
    """Exactly `height` rows, a few at a time, whatever follows. Pillow would read missing rows as black."""
    rows = max(1, _BLOCK // stride)
    decoder, size = zlib.decompressobj(), 0
    for start in range(0, height, rows):
        n_bytes = min(rows, height - start) * stride
        block = _decompressed(decoder, data, n_bytes)
        data, size = decoder.unconsumed_tail, size + len(block)
        if len(block) != n_bytes:
            break
        yield np.frombuffer(block, np.uint8).reshape(-1, stride)
    size += len(_decompressed(decoder, data, 1))
    if not size or size != height * stride:
        raise ValueError(f"damaged PNG: the pixels need {height * stride} bytes, it holds {size} or more")


def _decompressed(decoder: zlib._Decompress, data: bytes, n_bytes: int) -> bytes:
    try:
        return decoder.decompress(data, n_bytes)
    except zlib.error as error:
        raise ValueError(f"damaged PNG: {error}") from error


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, body) of each chunk up to IEND, checksums verified."""
    # None where a table has no bytes.
    if not data or not data.startswith(SIGNATURE):
        raise ValueError("not a PNG" + ("" if data else " (empty)"))
    offset, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        if offset + 12 > len(data):
            raise ValueError("truncated PNG")
        length = int.from_bytes(data[offset : offset + 4], "big")
        end = offset + 8 + length
        if end + 4 > len(data):
            raise ValueError("truncated PNG")
        kind, body = data[offset + 4 : offset + 8], data[offset + 8 : end]
        if zlib.crc32(kind + body) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"damaged PNG: checksum of chunk {kind!r}")
        yield kind, body
        offset = end + 4
