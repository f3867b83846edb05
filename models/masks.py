"""Segments as cropped binary masks, and their compact forms: packed bits and COCO RLE."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.models.rle import checked_runs, crop_runs, encode_crop, runs_crop

BoolMask = NDArray[np.bool_]
Box = tuple[int, int, int, int]

_LARGE = 1 << 22
"""Pixels, of a mask's columns to write and of the image to read, above which runs are handled without an
array of that size; below, one is faster."""
_HEADER = struct.Struct("<4iqdd2d4i")


@dataclass(frozen=True, slots=True)
class Segment:
    """One mask, stored as the crop of its tight box: an image's segments never need K full-size arrays.

    Attributes:
        box: (x, y, w, h) in integer pixels, the tight box of the mask.
        mask: bool [h, w], the crop of the full-size mask to `box`.
        area: number of true pixels.
        predicted_iou: SAM's own estimate of the mask's IoU.
        stability_score: IoU between the masks at logit thresholds +offset and -offset.
        point: (x, y) of the prompt in image pixels.
        crop_box: (x, y, w, h) of the image crop that the mask was predicted in.
    """

    box: Box
    mask: BoolMask
    area: int
    predicted_iou: float
    stability_score: float
    point: tuple[float, float] = (float("nan"), float("nan"))
    crop_box: Box = (0, 0, 0, 0)


def segment_from_mask(mask: BoolMask, predicted_iou: float = 1.0, stability_score: float = 1.0) -> Segment:
    """Crop a full-size bool [H, W] mask to its tight box.

    Raises:
        ValueError: the mask has no true pixel.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        raise ValueError("a segment needs at least one pixel, this mask is empty")
    y, x, height, width = rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    crop = np.ascontiguousarray(mask[y : y + height, x : x + width])
    box = (int(x), int(y), int(width), int(height))
    return Segment(box, crop, int(crop.sum()), predicted_iou, stability_score)


def full_mask(segment: Segment, height: int, width: int) -> BoolMask:
    """The segment as a bool [height, width] mask."""
    x, y, w, h = segment.box
    mask = np.zeros((height, width), bool)
    mask[y : y + h, x : x + w] = segment.mask
    return mask


def encode_rle(segment: Segment, height: int, width: int) -> tuple[list[int], bytes]:
    """COCO compressed RLE of the full-size mask: (size [height, width], counts)."""
    from pycocotools import mask as coco

    x, y, columns, _ = segment.box
    if height * columns <= _LARGE:
        return [height, width], encode_crop(segment.mask, x, y, height, width)
    runs = crop_runs(segment.mask, x, y, height, width)
    rle = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return [height, width], rle["counts"]


def segment_from_rle(
    size: Sequence[int], counts: bytes, predicted_iou: float = 1.0, stability_score: float = 1.0
) -> Segment:
    """The segment of a COCO compressed RLE; of a large image, with the memory of the segment's columns.

    Raises:
        ValueError: the counts are not those of a mask of that size, or of an empty one.
    """
    height, width = (int(n) for n in size)
    if height * width <= _LARGE:
        return segment_from_mask(decode_rle(size, counts), predicted_iou, stability_score)
    mask, x, y = runs_crop(checked_runs(counts, height, width), height)
    return Segment(
        (x, y, mask.shape[1], mask.shape[0]), mask, int(mask.sum()), predicted_iou, stability_score
    )


def decode_rle(size: Sequence[int], counts: bytes) -> BoolMask:
    """Bool [H, W] mask of a COCO compressed RLE.

    Whoever reads an RLE that was received compares `size` with the image's first: it decides the memory.

    Raises:
        ValueError: the counts are not those of a mask of that size.
    """
    from pycocotools import mask as coco

    height, width = (int(n) for n in size)
    checked_runs(counts, height, width)
    mask: NDArray[np.uint8] = coco.decode({"size": [height, width], "counts": counts})
    return mask.astype(bool)


def pack(segments: Sequence[Segment]) -> bytes:
    """Segments as bytes, one bit per pixel of each crop: the form that travels between workers."""
    parts = [struct.pack("<i", len(segments))]
    for s in segments:
        head = (*s.box, s.area, s.predicted_iou, s.stability_score, *s.point, *s.crop_box)
        parts += [_HEADER.pack(*head), np.packbits(s.mask).tobytes()]
    return b"".join(parts)


def unpack(data: bytes) -> list[Segment]:
    """The inverse of `pack`."""
    (count,) = struct.unpack_from("<i", data)
    offset = 4
    segments = []
    for _ in range(count):
        x, y, w, h, area, iou, stability, px, py, *crop = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        n_bytes = (w * h + 7) // 8
        bits = np.frombuffer(data, np.uint8, n_bytes, offset)
        offset += n_bytes
        mask = np.unpackbits(bits, count=w * h).astype(bool).reshape(h, w)
        crop_box = (crop[0], crop[1], crop[2], crop[3])
        segments.append(Segment((x, y, w, h), mask, area, iou, stability, (px, py), crop_box))
    return segments
