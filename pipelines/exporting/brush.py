"""Label Studio's run lengths of brush masks: bits of @thi.ng/rle-pack over RGBA values.

A header of 32 bits for the number of values, 5 for the bits of a value less 1, 4 times 4 for the widths of
run lengths less 1. Then runs: a bit (1: one value again and again), 2 bits for the width of the length, the
length less 1, and the value, or as many values as the length says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segray.models.masks import BoolMask

_WIDTHS = (3, 4, 8, 16)
_CHANNELS, _BITS = 4, 8
_HEADER = 32 + 5 + 4 * 4


def encode_brush(mask: BoolMask) -> list[int]:
    """The bytes of a mask, 255 in all four channels where it is true."""
    flat = mask.ravel()
    cuts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], cuts, [flat.size]])
    bits = [f"{flat.size * _CHANNELS:032b}", f"{_BITS - 1:05b}", *(f"{w - 1:04b}" for w in _WIDTHS)]
    for start, length in zip(edges[:-1].tolist(), np.diff(edges).tolist(), strict=True):
        value = f"{255 if flat[start] else 0:08b}"
        left = length * _CHANNELS
        while left:
            run = min(left, 1 << _WIDTHS[-1])
            index = next(i for i, width in enumerate(_WIDTHS) if run <= 1 << width)
            bits.append(f"1{index:02b}{run - 1:0{_WIDTHS[index]}b}{value}")
            left -= run
    text = "".join(bits)
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()


def decode_brush(data: bytes, height: int, width: int) -> BoolMask:
    """The mask of such bytes, bool [height, width]: true where the last channel is above 127.

    Raises:
        ValueError: not the run lengths of a mask of that size.
    """
    values = _unpacked(data, height * width * _CHANNELS)
    opaque: BoolMask = values.reshape(height, width, _CHANNELS)[..., -1] > 127
    return opaque


def _unpacked(data: bytes, size: int) -> NDArray[np.uint8]:
    bits = int.from_bytes(data[: _HEADER // 8 + 1], "big") >> (8 * (_HEADER // 8 + 1) - _HEADER)
    if len(data) * 8 < _HEADER or bits >> 21 != size or (bits >> 16 & 31) + 1 != _BITS:
        raise ValueError(f"brush run lengths that are not those of {size // _CHANNELS} pixels")
    widths = [(bits >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    values, place, filled = np.zeros(size, np.uint8), _HEADER, 0
    while filled < size:
        head = _read(data, place, 3)
        length = _read(data, place + 3, widths[head & 3]) + 1
        place += 3 + widths[head & 3]
        if filled + length > size:
            raise ValueError(f"brush run lengths of more than {size // _CHANNELS} pixels")
        if head >> 2:
            values[filled : filled + length] = _read(data, place, _BITS)
            place += _BITS
        else:
            values[filled : filled + length] = _literal(data, place, length)
            place += _BITS * length
        filled += length
    return values


def _literal(data: bytes, place: int, length: int) -> NDArray[np.uint8]:
    """Values one after another, which begin anywhere in a byte."""
    first, shift = divmod(place, 8)
    part = np.frombuffer(data[first : first + length + 1], np.uint8)
    shifted = np.unpackbits(part)[shift : shift + 8 * length]
    if shifted.size < 8 * length:
        raise ValueError("brush run lengths that are cut")
    return np.packbits(shifted)


def _read(data: bytes, place: int, count: int) -> int:
    first, last = place // 8, (place + count - 1) // 8
    if last >= len(data):
        raise ValueError("brush run lengths that are cut")
    return int.from_bytes(data[first : last + 1], "big") >> (8 * (last + 1) - place - count) & (
        (1 << count) - 1
    )
